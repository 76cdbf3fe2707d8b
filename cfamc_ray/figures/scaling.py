"""The figures of a scaling study."""

from collections.abc import Sequence
from statistics import mode

import numpy as np

from cfamc_ray.figures.chart import Area, Axis, Bars, Chart, Line, Panel, Points
from cfamc_ray.figures.charts import metric_axis
from cfamc_ray.formatting import format_count, format_point
from cfamc_ray.metrics import find_metric
from cfamc_ray.scaling.allocation import AllocationCurves
from cfamc_ray.scaling.laws import TOTAL
from cfamc_ray.scaling.study import Fits, ScalingRun
from cfamc_ray.scaling.system import SystemFits, predicted
from cfamc_ray.scaling.trial_table import PASSES, VIEWS, TrialTable
from cfamc_ray.store.cells import Measured

NOTHING = "too few trials have finished"
DRAWN = 60
"""Points of a curve."""


def scaling_charts(run: ScalingRun) -> list[Chart]:
    """The charts of the parts that have begun."""
    return [
        *(_system_charts(run.measured, run.system) if run.measured else []),
        *(_growth_charts(run.trials, run.learning) if run.records else []),
    ]


def _system_charts(measured: Sequence[Measured], fits: SystemFits) -> list[Chart]:
    """Throughput, models against measurements, predicted efficiency of many workers, and the phases of a step."""
    panels = [_throughput(measured), *(_beside(measured, fits, quantity) for quantity in (0, 1)), _efficiency(fits)]
    cells = [one.cell.values for one in measured]
    usual = {key: mode(values[key] for values in cells) for key in cells[0]}
    differing = [{key: value for key, value in values.items() if value != usual[key]} for values in cells]
    labels = [format_point(values) or "the most common settings" for values in differing]
    shares = {name: [one.phase_shares[name] for one in measured] for name in measured[0].phase_shares}
    bars = [Bars(name, labels, lengths) for name, lengths in shares.items()]
    return [
        Chart("system", "Training steps: speed, and models against measurements", panels, 2),
        Chart("phases", "Where the time of a step goes", [Panel(Axis("share of a step", "fraction"), Axis(""), bars)]),
    ]


def _throughput(measured: Sequence[Measured]) -> Panel:
    """Crop passes a second over the crops of a minibatch, log–log; a colour for each number of workers and width."""
    groups: dict[tuple[int, int], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.cell.workers, one.cell.trial.encoder.width), []).append(one)
    marks = [
        Points(
            f"{workers} worker{'s' if workers > 1 else ''}, width {width}",
            [one.cell.trial.crops.views * one.cell.trial.pretraining.batch_images for one in group],
            [float(np.median(one.speeds)) for one in group],
            details=[format_point(one.cell.values) for one in group],
        )
        for (workers, width), group in sorted(groups.items())
    ]
    return Panel(
        Axis("crops of a minibatch", "count", log=True), Axis("crop passes a second", "count", log=True), marks, "speed"
    )


def _beside(measured: Sequence[Measured], fits: SystemFits, quantity: int) -> Panel:
    """Fitted against measured, log–log: seconds of an update (0), or peak memory (1)."""
    name = ("seconds of an update", "peak memory in GB")[quantity]
    scale, marks, every = (1.0, 1e-9)[quantity], list[Points | Line | Area | Bars](), list[float]()
    for costs in fits.costs:
        cells = [one for one in measured if costs.describes(one)]
        x = [scale * (one.update_seconds, float(one.values.peak_memory_bytes))[quantity] for one in cells]
        y = [scale * predicted(costs, one)[quantity] for one in cells]
        marks.append(Points(costs.precision, x, y, details=[format_point(one.cell.values) for one in cells]))
        every += [*x, *y]
    if every:
        marks.append(Line("equal", [min(every), max(every)], [min(every), max(every)], "faint"))
    return Panel(Axis(f"{name}, measured", log=True), Axis("as fitted", log=True), marks, name, "too few cells")


def _efficiency(fits: SystemFits) -> Panel:
    """Weak efficiency over workers: measured points, and predicted lines with a machine for each worker."""
    marks = list[Points | Line | Area | Bars]()
    for hue, (one, _, efficiencies) in enumerate(fits.communication):
        trial = one.cell.trial
        images = trial.pretraining.batch_images // one.cell.workers
        name = f"{trial.crops.views} x {images} crops, width {trial.encoder.width}"
        marks.append(Points(name, [one.cell.workers], [one.weak_efficiency or 0.0], hue=hue))
        later = [each for each in efficiencies if each.workers >= one.cell.workers]
        line = [each.expected for each in later]
        marks.append(Line("", [each.workers for each in later], line, "unmarked", hue=hue))
    return Panel(
        Axis("workers", log=True),
        Axis("weak efficiency", "fraction"),
        marks,
        "many workers (predicted)",
        "all cells have one worker",
    )


def _growth_charts(trials: TrialTable, every: Sequence[Fits]) -> list[Chart]:
    """Error over crop passes with its law, and accuracy over crops at each budget."""
    return [
        Chart("learning", "How error falls with crop passes", [_fall(trials, one) for one in every] or [_nothing()], 2),
        Chart(
            "allocation",
            "Equal crop passes: measured points, predicted lines",
            [_iso(curves) for one in every for curves in one.curves] or [_nothing()],
            2,
        ),
    ]


def _nothing() -> Panel:
    return Panel(Axis("crop passes"), Axis("error"), [], missing=NOTHING)


def _fall(trials: TrialTable, one: Fits) -> Panel:
    """Error over crop passes, log–log, a colour for each number of crops; and the law of crop passes alone."""
    error = f"1 − {find_metric(one.metric).label}"
    marks: list[Points | Line | Area] = []
    if total := one.laws.get(TOTAL):
        low, high = np.log(trials.passes.min()), np.log(trials.passes.max())
        passes = np.exp(np.linspace(low, high, DRAWN))
        bounds = total.interval(passes[:, None])
        x = [*passes, *passes[::-1]]
        marks.append(Area("95 % interval", x, [*bounds[0], *bounds[1][::-1]]))
        marks.append(Line("law of crop passes", list(passes), list(total.law.predict(passes[:, None])), "faint"))
    for views in sorted({point[VIEWS] for point in trials.points if VIEWS in point}):
        places = [n for n, point in enumerate(trials.points) if point[VIEWS] == views]
        errors = [float(1 - trials.accuracies[one.metric][n]) for n in places]
        details = [format_point(trials.points[n]) for n in places]
        marks.append(Points(f"{views} crops", [float(trials.passes[n]) for n in places], errors, details=details))
    return Panel(metric_axis(PASSES, {}, log=True), Axis(error, "fraction", log=True), marks, error, NOTHING)


def _iso(iso: AllocationCurves) -> Panel:
    """Accuracy over crops, measured and predicted; a colour for each budget."""
    marks: list[Points | Line | Area | Bars] = []
    for hue, (budget, means) in enumerate(iso.curves.items()):
        marks.append(Points(f"{format_count(budget)} passes", list(means), list(means.values()), hue=hue))
        line = iso.predicted.get(budget, {})
        marks.append(Line("", list(line), list(line.values()), "unmarked", hue=hue))
    title = ", ".join([find_metric(iso.metric).label, *([format_point(iso.held)] if iso.held else [])])
    return Panel(Axis(f"{VIEWS} (and accordingly fewer epochs)", log=True), metric_axis(iso.metric, {}), marks, title)

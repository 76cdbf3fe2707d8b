"""The figures of a scaling study, from what `study.scaling` computed."""

from collections.abc import Sequence

import numpy as np

from cfamc_ray.figures.chart import Area, Axis, Chart, Line, Panel, Points
from cfamc_ray.figures.charts import metric_axis
from cfamc_ray.study.learned import PASSES, VIEWS, Learned
from cfamc_ray.study.scaling import Fits
from cfamc_ray.study.splits import SplitCurves
from cfamc_ray.study.wording import show_count, show_point

NOTHING = "too few trials have finished"
DRAWN = 60
"""Places at which a curve is drawn."""


def growth_charts(found: Learned, every: Sequence[Fits]) -> list[Chart]:
    """Error against crop passes with its law, and the split of each budget.

    Args:
        found: the finished trials.
        every: what was fitted to them.
    """
    return [
        Chart("learning", "How error falls with crop passes", [_fall(found, one) for one in every] or [_nothing()], 2),
        Chart(
            "split",
            "Equal crop passes: more crops and fewer epochs to the right",
            [_iso(split) for one in every for split in one.curves] or [_nothing()],
            2,
        ),
    ]


def _nothing() -> Panel:
    return Panel(Axis("crop passes"), Axis("error"), [], missing=NOTHING)


def _fall(found: Learned, one: Fits) -> Panel:
    """Log–log; each number of crops a colour of its own, the law of crop passes alone with its interval."""
    error = f"1 − {one.metric.replace('_', ' ')}"
    marks: list[Points | Line | Area] = []
    if one.total:
        low, high = np.log(found.passes.min()), np.log(found.passes.max())
        passes = np.exp(np.linspace(low, high, DRAWN))
        bounds = one.total.interval(passes[:, None])
        x = [*passes, *passes[::-1]]
        marks.append(Area("95 % interval", x, [*bounds[0], *bounds[1][::-1]]))
        marks.append(Line("law of crop passes", list(passes), list(one.total.law.predict(passes[:, None])), "faint"))
    for views in sorted({point[VIEWS] for point in found.points if VIEWS in point}):
        places = [n for n, point in enumerate(found.points) if point[VIEWS] == views]
        errors = [float(1 - found.accuracies[one.metric][n]) for n in places]
        details = [show_point(found.points[n]) for n in places]
        marks.append(Points(f"{views} crops", [float(found.passes[n]) for n in places], errors, details=details))
    return Panel(metric_axis(PASSES, {}, log=True), Axis(error, "share", log=True), marks, error, NOTHING)


def _iso(split: SplitCurves) -> Panel:
    """Accuracy over crops, a curve for each budget."""
    marks = [
        Line(f"{show_count(budget)} passes", list(means), list(means.values()))
        for budget, means in split.curves.items()
    ]
    title = ", ".join([split.metric.replace("_", " "), *([show_point(split.held)] if split.held else [])])
    return Panel(Axis(VIEWS, log=True), metric_axis(split.metric, {}), marks, title)

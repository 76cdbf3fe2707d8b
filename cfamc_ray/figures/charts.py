"""The figures of a study."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise

from cfamc_ray.figures.chart import Area, Axis, Bars, Chart, Line, Panel, Points
from cfamc_ray.formatting import format_change, format_interval, format_metric, format_value, is_radius
from cfamc_ray.front.comparison import Comparison
from cfamc_ray.front.effects import Effect
from cfamc_ray.front.front import Front, name_of
from cfamc_ray.front.growth import Growth, Spent
from cfamc_ray.front.published import PublishedResult
from cfamc_ray.front.uncertainty import interval_of, intervals_of
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import with_cost

COST = "crop_passes"
"""The metric that points are coloured by."""
NOTHING = "no trial has finished yet"


def metric_axis(name: str, objectives: Mapping[str, str], *, log: bool = False) -> Axis:
    """The axis of a metric; its label names the direction where the metric is an objective."""
    metric = find_metric(name)
    return Axis(metric.label + (f" ({objectives[name]})" if name in objectives else ""), metric.unit, log)


def front_chart(
    front: Front,
    *,
    title: str,
    attained: Sequence[Mapping[str, float]] = (),
    groups: Sequence[Sequence[TrialRecord]] = (),
    command_of: Callable[[TrialRecord], str] | None = None,
) -> Chart:
    """Finished trials in the plane of the first two objectives, coloured by cost; steps join the front.

    With one objective the other axis is the cost. Faint lines join the operating points of a trial, and broad ones the
    points of the front that noise cannot tell apart. Points on the front have the error bars of `interval_of`, and the
    number of their trial, of neighbours of one trial the first alone.

    Args:
        front: of the study.
        title: of the figure.
        attained: rows of attainment.csv: objectives, and the share of seeds that attain them.
        groups: of `noise_groups`.
        command_of: the command that trains a point again; None: points have no command.
    """
    x_name, y_name = ([*front.objectives, COST])[:2]
    marks: list[Points | Line | Area] = []

    def points(name: str, trials: Sequence[TrialRecord], style: str) -> Points:
        return Points(
            name,
            [trial.value(x_name) for trial in trials],
            [trial.value(y_name) for trial in trials],
            style,  # type: ignore[arg-type]
            colour=[trial.value(COST) for trial in trials],
            details=[describe(trial, front) for trial in trials],
            commands=[command_of(trial) for trial in trials] if command_of else (),
        )

    if front.members:
        # From the best point in the first objective on, the second objective is attained up to the next point.
        if len(front.objectives) == 2:
            x, y = ([trial.value(name) for trial in front.members] for name in (x_name, y_name))
            marks.append(Line("attained", x, y, style="steps"))
        marks += _within_noise(groups, x_name, y_name)
        marks += _curves(front, x_name, y_name)
        marks.append(points("dominated", front.dominated, "faint"))
        marks.append(
            points("on the front", front.members, "front")._replace(
                labels=_numbers(front.members),
                x_intervals=intervals_of(front.members, x_name),
                y_intervals=intervals_of(front.members, y_name),
            )
        )
        if len(front.objectives) == 2 and attained:
            marks += _attainment(attained, front.objectives)
    panel = Panel(metric_axis(x_name, front.objectives), metric_axis(y_name, front.objectives), marks, missing=NOTHING)
    return Chart("front", title, [panel], colour=metric_axis(COST, {}))


def _curves(front: Front, x_name: str, y_name: str) -> list[Line]:
    """The operating points of each trial in the order of their strengths, as one line with gaps; none without them."""
    points = sorted(
        (record for record in [*front.members, *front.dominated] if record.l2 is not None),
        key=lambda record: record.key,
    )
    curves = [list(curve) for _, curve in groupby(points, key=lambda record: record.number)]
    return [Line("operating points of a trial", *_with_gaps(curves, x_name, y_name), "curve")] if points else []


def _within_noise(groups: Sequence[Sequence[TrialRecord]], x_name: str, y_name: str) -> list[Line]:
    """The points of each group, joined; none where each group is a single point."""
    joined = [group for group in groups if len(group) > 1]
    return [Line("within noise", *_with_gaps(joined, x_name, y_name), "group")] if joined else []


def _with_gaps(lines: Iterable[Sequence[TrialRecord]], x_name: str, y_name: str) -> tuple[list[float], list[float]]:
    """Coordinates of several lines as those of one, with NaN after each of them."""
    x, y = list[float](), list[float]()
    for line in lines:
        x += [*(point.value(x_name) for point in line), math.nan]
        y += [*(point.value(y_name) for point in line), math.nan]
    return x, y


def _numbers(members: Sequence[TrialRecord]) -> list[str]:
    before = [None, *(member.number for member in members)]
    return ["" if one.number == last else f"{one.number}" for one, last in zip(members, before, strict=False)]


def _attainment(attained: Sequence[Mapping[str, float]], objectives: Mapping[str, str]) -> list[Area | Line]:
    """The surface that half of the seeds attain, and the area between those that few and most of them attain.

    Beyond its outermost points a surface is extended straight, as far as any of the surfaces reaches.
    """
    (x_name, x_direction), (y_name, y_direction) = objectives.items()
    worst = {"maximize": min, "minimize": max}
    worst_x = worst[x_direction](row[x_name] for row in attained)
    worst_y = worst[y_direction](row[y_name] for row in attained)
    levels = sorted({row["attained_by"] for row in attained})
    surfaces = []
    for level in levels:
        points = [(row[x_name], row[y_name]) for row in attained if row["attained_by"] == level]
        surfaces.append(sorted(points, reverse=x_direction == "maximize"))
    few, most = (
        [(surface[0][0], worst_y), *_corners(surface), (worst_x, surface[-1][1])]
        for surface in (surfaces[0], surfaces[-1])
    )
    around, middle = [*few, *reversed(most)], surfaces[len(surfaces) // 2]
    return [
        Area(f"attained by {levels[0]:.0%} to {levels[-1]:.0%} of the seeds", *_split(around)),
        Line(f"by {levels[len(levels) // 2]:.0%}", *_split(middle), style="attained"),
    ]


def _split(places: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _corners(surface: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a staircase: each height holds until the next point."""
    between = [(after[0], before[1]) for before, after in pairwise(surface)]
    return [surface[0], *(place for step in zip(between, surface[1:], strict=True) for place in step)]


def published_chart(front: Front, published: Sequence[PublishedResult]) -> Chart:
    """The front and published results in the plane of clean and robust accuracy.

    Args:
        front: of the study; its members have both metrics.
        published: results on the same images, at far more compute.
    """
    x_name, y_name = "clean_accuracy", "robust_accuracy"
    ours = [[trial.value(name) for trial in front.members] for name in (x_name, y_name)]
    theirs = sorted(published, key=lambda one: one.values[x_name])
    x, y = ([one.values[name] for one in theirs] for name in (x_name, y_name))
    details = [f"{one.name}<br>{', '.join(format_metric(n, v) for n, v in one.values.items())}" for one in theirs]
    marks = [
        Points("on the front", ours[0], ours[1], "plain"),
        Points("published", x, y, "published", labels=[one.name for one in theirs], details=details),
    ]
    panel = Panel(metric_axis(x_name, {}), metric_axis(y_name, {}), marks)
    return Chart("published", "Published results, at far more compute and under another attack", [panel])


def comparison_chart(studies: Sequence[Comparison]) -> Chart:
    """The fronts of several studies in the plane of the first two objectives."""
    objectives = studies[0].front.objectives
    x_name, y_name = ([*objectives, COST])[:2]
    marks: list[Points | Line] = []
    for study in studies:
        members = study.front.members
        x, y = ([trial.value(name) for trial in members] for name in (x_name, y_name))
        if len(objectives) == 2:
            marks.append(Line(study.name, x, y, "stairs"))
        else:
            marks.append(Points(study.name, x, y))
    panel = Panel(metric_axis(x_name, objectives), metric_axis(y_name, objectives), marks, missing=NOTHING)
    return Chart("compare", "Fronts of several studies", [panel])


def describe(trial: TrialRecord, front: Front) -> str:
    """Metrics with their intervals and settings of a trial, in lines that <br> separates."""
    values = [_with_interval(trial, name) for name in with_cost(front.objectives)]
    point = [f"{key} {value}" for key, value in front.settings(trial).items()]
    return "<br>".join([name_of(trial), *values, *point])


def _with_interval(trial: TrialRecord, name: str) -> str:
    interval = interval_of(trial, name)
    ends = " – ".join(format_value(name, end) for end in interval)
    return format_metric(name, trial.value(name)) + (f" ({ends})" if math.isfinite(interval[0]) else "")


def growth_chart(growth: Growth) -> Chart:
    """The hypervolume over crop passes and over seconds."""
    volume = Axis("hypervolume")

    def panel(axis: Axis, spent: Sequence[float]) -> Panel:
        line = Line("", [0.0, *spent], [growth.before, *growth.hypervolume], style="stairs")
        return Panel(axis, volume, [line] if growth.trials else [], missing=NOTHING)

    return Chart(
        "growth",
        "How the front grew",
        [
            panel(Axis("crop passes of all trials", "count"), growth.crop_passes),
            panel(Axis("seconds of all trials, training and evaluation", "seconds"), growth.seconds),
        ],
        columns=2,
    )


def importance_chart(effects: Sequence[Effect]) -> Chart:
    """The importance of each key for each objective."""
    important = [effect for effect in effects if math.isfinite(effect.importance)]
    panels = [
        Panel(
            Axis("importance (PED-ANOVA)", "fraction"),
            Axis(""),
            [Bars("", [one.key for one in chosen], [one.importance for one in chosen])],
            title=find_metric(metric).label,
        )
        for metric in dict.fromkeys(effect.metric for effect in important)
        if (chosen := sorted((e for e in important if e.metric == metric), key=lambda e: -e.importance))
    ]
    nothing = Panel(Axis("importance (PED-ANOVA)", "fraction"), Axis(""), [], missing="too few finished trials")
    return Chart("importance", "Importance of the keys", panels or [nothing], columns=2)


def slices_chart(effects: Sequence[Effect], objectives: Mapping[str, str]) -> Chart:
    """Each objective over each key, with its linear trend where there is one."""
    panels = [_slice(effect, objectives) for effect in effects if math.isfinite(effect.ends[0])]
    nothing = Panel(Axis(""), Axis(""), [], missing="too few finished trials")
    keys = len({effect.key for effect in effects}) or 1
    return Chart("slices", "Each objective over each key", panels or [nothing], columns=min(keys, 3))


def _slice(effect: Effect, objectives: Mapping[str, str]) -> Panel:
    norm = effect.norms.get(effect.key, "linf") if is_radius(effect.key) else None
    scale, unit = {"linf": (255, " × 255"), "l2": (1, " (l₂)"), None: (1, "")}[norm]  # l∞ in grey levels
    x = [scale * float(setting) for setting in effect.settings]  # type: ignore[arg-type]
    marks: list[Points | Line] = [Points("", x, effect.results)]
    title = ""
    if math.isfinite(effect.slope):
        marks.append(Line("", [scale * end for end in effect.ends], effect.trend))
        title = f"{format_change(effect.metric, effect.slope)} ({format_interval(effect.metric, effect.interval)})"
    return Panel(Axis(effect.key + unit, log=effect.log), metric_axis(effect.metric, objectives), marks, title=title)


def spending_chart(spending: Sequence[Spent]) -> Chart:
    """Time of training, evaluation and overhead, by the status of the trials."""
    paid = [spent for spent in spending if spent.train_seconds + spent.eval_seconds > 0]
    labels = [f"{spent.status} ({spent.trials})" for spent in paid]
    seconds = {
        "training": [spent.train_seconds for spent in paid],
        "evaluation": [spent.eval_seconds for spent in paid],
        "overhead": [spent.overhead_seconds for spent in paid],
    }
    bars = [Bars(name, labels, values) for name, values in seconds.items() if not all(map(math.isnan, values))]
    panel = Panel(
        Axis("seconds of all trials", "seconds"), Axis(""), bars if paid else [], missing="nothing was spent yet"
    )
    return Chart("spending", "Where the compute went", [panel])

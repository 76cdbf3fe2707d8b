"""How a budget of crop passes is best split between crops, replays and epochs."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from cfamc_ray.config.scaling import EPOCHS, ScalingConfig
from cfamc_ray.scaling.laws import Fit
from cfamc_ray.scaling.trial_table import VIEWS, TrialTable

DRAWN = 40
"""Places at which a predicted curve is known."""


class Doubling(NamedTuple):
    """What a doubling changes at equal crop passes, all other keys but epochs held."""

    key: str
    metric: str
    among: Mapping[str, Any]
    """Settings of the trials that were looked at; empty for all."""
    per_doubling: float
    low: float
    high: float
    blocks: int
    """Groups of trials that share budget, seed and all other keys; each gives one slope."""

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval leaves out zero."""
        return self.low > 0 or self.high < 0


class Allocation(NamedTuple):
    """How a budget is best spent."""

    budget: float
    metric: str
    measured: Mapping[str, Any]
    """The point with the best mean over its seeds."""
    measured_accuracy: float
    predicted: Mapping[str, Any]
    """The point that the law puts first, among whole numbers within the sizes that were tried; of its factors alone."""
    predicted_accuracy: float
    support: float
    """Share of the resampled laws that put the same first."""


class AllocationCurves(NamedTuple):
    """What trials of equal budgets reached over their crops, all other keys but epochs held."""

    metric: str
    held: Mapping[str, Any]
    """The other keys that are split, and their values."""
    curves: Mapping[float, Mapping[float, float]]
    """Mean over seeds, by budget and crops, both ascending."""
    predicted: Mapping[float, Mapping[float, float]]
    """What the law says of the same budgets, epochs being any number; empty without such a law."""


def doublings(config: ScalingConfig, found: TrialTable, metric: str) -> list[Doubling]:
    """What twice the crops change among all trials, then for each setting of the other keys that are split.

    Args:
        config: of the run.
        found: the trials.
        metric: an accuracy.
    """
    others = [key for key in config.learning.split if key != VIEWS]
    settings = {tuple(point[key] for key in others): None for point in found.points} if others else {}
    among = [dict(zip(others, setting, strict=True)) for setting in settings]
    every = [doubling(found, metric, among=each) for each in ({}, *(among if len(among) > 1 else ()))]
    return [one for one in every if one]


def doubling(
    found: TrialTable, metric: str, key: str = VIEWS, *, among: Mapping[str, Any] | None = None
) -> Doubling | None:
    """What a doubling of a factor changes at equal crop passes: more of it, and fewer epochs.

    The interval is Student's over blocks. None where fewer than two blocks have two sizes.

    Args:
        found: the trials.
        metric: an accuracy.
        key: of the factor.
        among: settings of the trials to look at; None for all.
    """
    known, among = found.measured(metric), among or {}
    blocks: dict[tuple[Any, ...], list[int]] = {}
    for place, point in enumerate(known.points):
        if key in point and among.items() <= point.items():
            others = tuple((name, value) for name, value in point.items() if name not in (key, EPOCHS))
            blocks.setdefault((known.budgets[place], *others), []).append(place)
    slopes = []
    for places in blocks.values():
        logs = np.log2([float(known.points[n][key]) for n in places])
        values = known.accuracies[metric][places]
        if np.ptp(logs) > 0:
            # A line through equal values has a slope of rounding errors, which would all have one sign.
            slopes.append(np.polyfit(logs, values, 1)[0] if np.ptp(values) > 0 else 0.0)
    if len(slopes) < 2:
        return None
    mean, error = float(np.mean(slopes)), float(np.std(slopes, ddof=1) / math.sqrt(len(slopes)))
    half = float(student.ppf(0.975, len(slopes) - 1)) * error
    return Doubling(key, metric, among, mean, mean - half, mean + half, len(slopes))


def allocation_curves(
    config: ScalingConfig, found: TrialTable, metric: str, fitted: Fit | None
) -> list[AllocationCurves]:
    """Curves for each setting of the other keys that are split, images and the like as in `trial`.

    Args:
        config: of the run.
        found: the trials.
        metric: an accuracy.
        fitted: the law that predicts, where there is one.
    """
    known = found.measured(metric)
    shared = {key: config.trial.value_of(key) for key in config.learning.vary}
    others = [key for key in config.learning.split if key != VIEWS]
    values: dict[tuple[Any, ...], dict[float, dict[float, list[float]]]] = {}
    for budget, point, value in zip(known.budgets, known.points, known.accuracies[metric], strict=True):
        if VIEWS in point and shared.items() <= point.items():
            curves = values.setdefault(tuple(point[key] for key in others), {})
            curves.setdefault(float(budget), {}).setdefault(float(point[VIEWS]), []).append(float(value))
    found_curves = []
    for settings, curves in values.items():
        held = dict(zip(others, settings, strict=True))
        means = {b: {views: float(np.mean(curves[b][views])) for views in sorted(curves[b])} for b in sorted(curves)}
        predicted = (
            {b: _predicted(config, {**shared, **held}, b, list(means[b]), fitted) for b in means} if fitted else {}
        )
        found_curves.append(AllocationCurves(metric, held, means, predicted))
    return found_curves


def _predicted(
    config: ScalingConfig, held: Mapping[str, Any], budget: float, views: Sequence[float], fitted: Fit
) -> dict[float, float]:
    """The law's accuracies between the fewest and the most crops that were tried."""
    places = np.geomspace(views[0], views[-1], DRAWN)
    per_view = config.trial.with_values({**held, VIEWS: int(views[0])}).crop_passes_per_epoch / views[0]
    sizes = {VIEWS: places, EPOCHS: budget / (per_view * places)}
    sizes_NF = np.column_stack(
        [sizes.get(key, np.full(DRAWN, float(held.get(key, 1)))) for key in fitted.law.exponents]
    )
    return dict(zip(map(float, places), map(float, 1 - fitted.law.predict(sizes_NF)), strict=True))


def best_allocations(config: ScalingConfig, found: TrialTable, metric: str, fitted: Fit) -> list[Allocation]:
    """The measured and the predicted best of every budget.

    Args:
        config: of the run.
        found: the trials.
        metric: an accuracy.
        fitted: the law that predicts.
    """
    known = found.measured(metric)
    splits = []
    for budget in np.unique(known.budgets):
        here = known.take(known.budgets == budget)
        means = [here.mean_of_alike(metric, point) for point in here.points]
        best = int(np.argmax(means))
        candidates = _candidates(config, known, float(budget), fitted.law.exponents)
        if len(candidates) < 2:  # nothing to choose
            continue
        sizes_NF = np.array([[float(point[key]) for key in fitted.law.exponents] for point in candidates])
        errors_N = fitted.law.predict(sizes_NF)
        first = candidates[int(np.argmin(errors_N))]
        same = [candidates[int(np.argmin(law.predict(sizes_NF)))] == first for law in fitted.resampled]
        splits.append(
            Allocation(
                budget=float(budget),
                metric=metric,
                measured={key: value for key, value in here.points[best].items() if key != "seed"},
                measured_accuracy=float(means[best]),
                predicted=first,
                predicted_accuracy=float(1 - errors_N.min()),
                support=float(np.mean(same)) if same else math.nan,
            )
        )
    return splits


def _candidates(
    config: ScalingConfig, found: TrialTable, budget: float, known: Collection[str]
) -> list[dict[str, Any]]:
    """Whole numbers within the sizes that were tried, whose passes are the budget's; all else as in `trial`.

    Of each point the factors that a law knows, and epochs.
    """
    learning = config.learning
    ranges: dict[str, Sequence[Any]] = {}
    for key in [key for key in learning.split if key in known]:
        values = sorted({point[key] for point in found.points})
        whole = all(isinstance(value, int) for value in values)
        ranges[key] = range(values[0], values[-1] + 1) if whole else values
    held = {key: config.trial.value_of(key) for key in learning.vary if key in known}
    most = max(int(point[EPOCHS]) for point in found.points)
    points = []
    for combination in product(*ranges.values()):
        point = held | dict(zip(ranges, combination, strict=True))
        epochs = config.epochs_for(point, int(budget))
        if 0 < epochs <= most:
            points.append({**point, EPOCHS: epochs})
    return points

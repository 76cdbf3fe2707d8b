"""How to allocate a budget of crop passes to crops, replays and epochs."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from cfamc_ray.config.scaling import EPOCHS, ScalingConfig
from cfamc_ray.scaling.laws import Fit
from cfamc_ray.scaling.trial_table import VIEWS, TrialTable

DRAWN = 40
"""Points of a predicted curve."""


class Doubling(NamedTuple):
    """Change of a metric when a factor is doubled at equal crop passes, with all other keys but epochs held fixed."""

    key: str
    metric: str
    among: Mapping[str, Any]
    """Settings that all compared trials have; empty: all trials are compared."""
    per_doubling: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    blocks: int
    """Number of groups of trials with the same budget, seed and other keys; each gives one slope."""

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval excludes zero."""
        return self.low > 0 or self.high < 0


class Allocation(NamedTuple):
    """The best allocation of a budget."""

    budget: float
    metric: str
    measured: Mapping[str, Any]
    """The measured point with the best mean over its seeds."""
    measured_accuracy: float
    predicted: Mapping[str, Any]
    """The factors of the point that the law predicts to be best, among whole numbers within the measured range."""
    predicted_accuracy: float
    support: float
    """Share of the resampled laws that predict the same point to be best."""


class AllocationCurves(NamedTuple):
    """Accuracy over crops at equal budgets (as isoFLOP curves), with all other keys but epochs held fixed."""

    metric: str
    held: Mapping[str, Any]
    """Values of the other keys that share the budget."""
    curves: Mapping[float, Mapping[float, float]]
    """Mean over seeds, by budget and crops, both ascending."""
    predicted: Mapping[float, Mapping[float, float]]
    """The law's prediction at the same budgets, with fractional epochs; empty without a law."""


def doublings(config: ScalingConfig, trials: TrialTable, metric: str) -> list[Doubling]:
    """The effect of doubling the crops in all trials, then for each setting of the other keys that share the budget.

    Args:
        config: of the run.
        trials: finished trials.
        metric: an accuracy.
    """
    others = [key for key in config.learning.split if key != VIEWS]
    settings = {tuple(point[key] for key in others): None for point in trials.points} if others else {}
    among = [dict(zip(others, setting, strict=True)) for setting in settings]
    every = [doubling(trials, metric, among=each) for each in ({}, *(among if len(among) > 1 else ()))]
    return [one for one in every if one]


def doubling(
    trials: TrialTable, metric: str, key: str = VIEWS, *, among: Mapping[str, Any] | None = None
) -> Doubling | None:
    """The effect of doubling a factor at equal crop passes, and so with fewer epochs.

    The interval is Student's over blocks. None where fewer than two blocks have two sizes.

    Args:
        trials: finished trials.
        metric: an accuracy.
        key: the factor.
        among: settings that the compared trials have; None: all trials are compared.
    """
    measured, among = trials.measured(metric), among or {}
    blocks: dict[tuple[Any, ...], list[int]] = {}
    for place, point in enumerate(measured.points):
        if key in point and among.items() <= point.items():
            others = tuple((name, value) for name, value in point.items() if name not in (key, EPOCHS))
            blocks.setdefault((measured.budgets[place], *others), []).append(place)
    slopes = []
    for places in blocks.values():
        logs = np.log2([float(measured.points[n][key]) for n in places])
        values = measured.accuracies[metric][places]
        if np.ptp(logs) > 0:
            # The slope through equal values is a rounding error, and all of these errors have the same sign.
            slopes.append(np.polyfit(logs, values, 1)[0] if np.ptp(values) > 0 else 0.0)
    if len(slopes) < 2:
        return None
    mean, error = float(np.mean(slopes)), float(np.std(slopes, ddof=1) / math.sqrt(len(slopes)))
    half = float(stdtrit(len(slopes) - 1, 0.975)) * error
    return Doubling(key, metric, among, mean, mean - half, mean + half, len(slopes))


def allocation_curves(
    config: ScalingConfig, trials: TrialTable, metric: str, fitted: Fit | None
) -> list[AllocationCurves]:
    """Curves for each setting of the other keys that share the budget, with the keys of `vary` as in `trial`.

    Args:
        config: of the run.
        trials: finished trials.
        metric: an accuracy.
        fitted: the law that predicts; None: there is none.
    """
    shared = config.in_trial(config.learning.vary)
    measured = trials.measured(metric).at(shared)
    others = [key for key in config.learning.split if key != VIEWS]
    values: dict[tuple[Any, ...], dict[float, dict[float, list[float]]]] = {}
    for budget, point, value in zip(measured.budgets, measured.points, measured.accuracies[metric], strict=True):
        if VIEWS in point:
            curves = values.setdefault(tuple(point[key] for key in others), {})
            curves.setdefault(float(budget), {}).setdefault(float(point[VIEWS]), []).append(float(value))
    every = []
    for settings, curves in values.items():
        held = dict(zip(others, settings, strict=True))
        means = {b: {views: float(np.mean(curves[b][views])) for views in sorted(curves[b])} for b in sorted(curves)}
        predicted = (
            {b: _predicted(config, {**shared, **held}, b, list(means[b]), fitted) for b in means} if fitted else {}
        )
        every.append(AllocationCurves(metric, held, means, predicted))
    return every


def _predicted(
    config: ScalingConfig, held: Mapping[str, Any], budget: float, views: Sequence[float], fitted: Fit
) -> dict[float, float]:
    """The law's accuracies between the fewest and the most measured crops."""
    places = np.geomspace(views[0], views[-1], DRAWN)
    per_view = config.trial.with_values({**held, VIEWS: int(views[0])}).crop_passes_per_epoch / views[0]
    sizes = {VIEWS: places, EPOCHS: budget / (per_view * places)}
    sizes_NF = np.column_stack(
        [sizes.get(key, np.full(DRAWN, float(held.get(key, 1)))) for key in fitted.law.exponents]
    )
    return dict(zip(map(float, places), map(float, 1 - fitted.law.predict(sizes_NF)), strict=True))


def best_allocations(config: ScalingConfig, trials: TrialTable, metric: str, fitted: Fit) -> list[Allocation]:
    """The best measured and the best predicted allocation of each budget, with the keys of `vary` as in `trial`.

    Args:
        config: of the run.
        trials: finished trials.
        metric: an accuracy.
        fitted: the law that predicts.
    """
    measured = trials.measured(metric)
    plain = measured.at(config.in_trial(config.learning.vary))
    allocations = []
    for budget in np.unique(plain.budgets):
        here = plain.take(plain.budgets == budget)
        means = [here.mean_of_alike(metric, point) for point in here.points]
        best = int(np.argmax(means))
        candidates = _candidates(config, measured, float(budget), fitted.law.exponents)
        if len(candidates) < 2:  # nothing to choose
            continue
        sizes_NF = np.array([[float(point[key]) for key in fitted.law.exponents] for point in candidates])
        errors_N = fitted.law.predict(sizes_NF)
        first = candidates[int(np.argmin(errors_N))]
        same = [candidates[int(np.argmin(law.predict(sizes_NF)))] == first for law in fitted.resampled]
        allocations.append(
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
    return allocations


def _candidates(
    config: ScalingConfig, trials: TrialTable, budget: float, factors: Collection[str]
) -> list[dict[str, Any]]:
    """All points of whole numbers within the measured range that take exactly the budget; the rest as in `trial`.

    A point has the given factors and epochs.
    """
    learning = config.learning
    ranges: dict[str, Sequence[Any]] = {}
    for key in [key for key in learning.split if key in factors]:
        values = sorted({point[key] for point in trials.points})
        whole = all(isinstance(value, int) for value in values)
        ranges[key] = range(values[0], values[-1] + 1) if whole else values
    held = config.in_trial(key for key in learning.vary if key in factors)
    most = max(int(point[EPOCHS]) for point in trials.points)
    points = []
    for combination in product(*ranges.values()):
        point = held | dict(zip(ranges, combination, strict=True))
        epochs = config.epochs_for(point, int(budget))
        if 0 < epochs <= most:
            points.append({**point, EPOCHS: epochs})
    return points

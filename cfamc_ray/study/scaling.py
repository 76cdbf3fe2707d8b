"""How what is learned grows with crop passes and with what they are spent on.

Error is one minus an accuracy. A law says that it falls to a floor as a sum of powers, one for each factor:

    error = floor + Σ_f amount_f · (size_f / reference_f)^-exponent_f

as Hoffmann et al. (arXiv 2203.15556) have it for parameters and data. The law `total` knows the crop passes alone,
however they are split; `factors` knows crops, replays, epochs, images and width one by one, each of which saturates by
itself, so that a balanced split wins in the end. Which of them to believe is shown by what they predict of the largest
budget from the smaller ones.

Shapes: N trials, F factors.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import t as student

from cfamc_ray.config.scaling import EPOCHS, ScalingConfig
from cfamc_ray.study.records import COSTS, TrialRecord
from cfamc_ray.study.wording import short_names, show_change, show_count, show_setting, show_value

Array = npt.NDArray[np.float64]

ACCURACIES = ("clean_accuracy", "robust_accuracy")
VIEWS, PASSES = "crops.views", "crop_passes"
EXPONENTS = (0.05, 3.0)
"""Bounds; what falls more slowly cannot be told from a line, what falls faster not from a step."""
PLAIN_EXPONENT = 0.5
"""Of a factor with fewer than three sizes, which leave its curvature open."""
RESAMPLES = 200


class Learned(NamedTuple):
    """Finished trials of the learning part."""

    points: Sequence[Mapping[str, Any]]
    """Searched keys and their values."""
    budgets: Array
    """The planned crop passes that each belongs to, (N,)."""
    passes: Array
    """Those that it took, (N,)."""
    accuracies: Mapping[str, Array]
    """By metric, (N,); NaN where it was not measured."""

    def sizes(self, keys: Sequence[str]) -> Array:
        """sizes_NF of some factors; `crop_passes` is one too."""
        columns = [self.passes if key == PASSES else [float(point[key]) for point in self.points] for key in keys]
        return np.array(columns, dtype=float).reshape(len(keys), -1).T

    def take(self, places: Any) -> "Learned":
        """Some of them, by mask or by position."""
        chosen = np.arange(len(self.points))[places]
        accuracies = {name: values[chosen] for name, values in self.accuracies.items()}
        return Learned([self.points[n] for n in chosen], self.budgets[chosen], self.passes[chosen], accuracies)


class Law(NamedTuple):
    """Error as a floor and a sum of powers of sizes."""

    keys: tuple[str, ...]
    reference: tuple[float, ...]
    floor: float
    amounts: tuple[float, ...]
    """Error above the floor that is owed to each factor at its reference; negative where more of it makes worse."""
    exponents: tuple[float, ...]

    def predict(self, sizes_NF: Array) -> Array:
        """errors_N."""
        powers_NF = _powers(sizes_NF, self.reference, self.exponents)
        return np.asarray(self.floor + powers_NF @ np.array(self.amounts))


class Fit(NamedTuple):
    """A law, and how far the trials leave it open."""

    law: Law
    resampled: Sequence[Law]
    """The same fitted to its predictions plus residuals drawn anew: points are designed, only the noise is not."""

    def interval(self, sizes_NF: Array) -> tuple[Array, Array]:
        """Of the prediction, 95 %: low_N and high_N; of 40 sets with known truth, 36 trials each, they held 91 %."""
        predicted = np.array([law.predict(sizes_NF) for law in self.resampled])
        low, high = np.quantile(predicted, (0.025, 0.975), axis=0)
        return low, high

    def exponent_interval(self, place: int) -> tuple[float, float]:
        """Of the exponent of a factor, 95 %."""
        low, high = np.quantile([law.exponents[place] for law in self.resampled], (0.025, 0.975))
        return float(low), float(high)


class HeldOut(NamedTuple):
    """What was predicted of the largest budget from the smaller ones, as absolute errors of accuracy."""

    metric: str
    trials: int
    errors: Mapping[str, Array]
    """By law, and of `unchanged`: what the same configuration reached at the largest of the smaller budgets."""

    def median(self, name: str) -> float:
        """Of the absolute errors."""
        return float(np.median(self.errors[name]))


class Effect(NamedTuple):
    """What a doubling changes at equal crop passes, all other keys but epochs held."""

    key: str
    metric: str
    per_doubling: float
    low: float
    high: float
    blocks: int
    """Groups of trials that share budget, seed and all other keys; each gives one slope."""

    @property
    def decided(self) -> bool:
        """Whether the 95 % interval leaves out zero."""
        return self.low > 0 or self.high < 0


class Split(NamedTuple):
    """How a budget is best spent."""

    budget: float
    metric: str
    measured: Mapping[str, Any]
    """The point with the best mean over its seeds."""
    measured_accuracy: float
    predicted: Mapping[str, Any]
    """The point that the law `factors` puts first, among whole numbers within the sizes that were tried."""
    predicted_accuracy: float
    support: float
    """Share of the resampled laws that put the same number of views first."""


def learning_table(config: ScalingConfig, records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """A row for each trial of the learning part: what it was, how it ended, what it reached and cost."""
    table = []
    for record in records:
        last = record.rows[-1] if record.rows else {}
        metrics = dict.fromkeys([*ACCURACIES, *COSTS])
        table.append(
            {"trial_id": record.trial_id, "status": record.status, "budget": _budget(config, record)}
            | {name: last.get(name) for name in metrics}
            | dict(record.point)
        )
    return table


def learning_columns(config: ScalingConfig) -> list[str]:
    """Columns of `learning_table`, also where it has no rows."""
    return ["trial_id", "status", "budget", *ACCURACIES, *COSTS, *config.learning_points[0]]


def learned(config: ScalingConfig, records: Sequence[TrialRecord]) -> Learned:
    """The finished trials, as the laws see them."""
    finished = [record for record in records if record.status == "finished"]
    return Learned(
        points=[record.point for record in finished],
        budgets=np.array([_budget(config, record) for record in finished], dtype=float),
        passes=np.array([record.value(PASSES) for record in finished]),
        accuracies={name: np.array([record.value(name) for record in finished]) for name in ACCURACIES},
    )


def factors(found: Learned) -> list[str]:
    """Keys with numbers that vary among the trials; seeds are no factor."""
    keys = [key for key in (found.points[0] if found.points else {}) if key != "seed"]
    numbers = [key for key in keys if all(_is_number(point[key]) for point in found.points)]
    return [key for key in numbers if len({point[key] for point in found.points}) > 1]


def fit_law(keys: Sequence[str], sizes_NF: Array, errors_N: Array) -> Law:
    """Least squares; the floor is not negative.

    Args:
        keys: names of the factors.
        sizes_NF: positive.
        errors_N: from 0 to 1.

    Raises:
        ValueError: where there are no more trials than the law has free numbers, or a factor has one size alone.
    """
    for key, column in zip(keys, sizes_NF.T, strict=True):
        if len(set(column)) < 2:
            raise ValueError(f"{key} has one size alone, so nothing can be said of others")
    reference = tuple(float(np.exp(np.log(column).mean())) for column in sizes_NF.T)
    curved = [place for place, column in enumerate(sizes_NF.T) if len(set(column)) > 2]
    free = 1 + len(keys) + len(curved)
    if len(errors_N) <= free:
        raise ValueError(f"a law of {', '.join(keys)} has {free} free numbers and needs more trials than that")

    def exponents_of(logs: Array) -> tuple[float, ...]:
        found = [PLAIN_EXPONENT] * len(keys)
        for place, value in zip(curved, logs, strict=True):
            found[place] = float(np.exp(value))
        return tuple(found)

    def loss(logs: Array) -> float:
        return _solve(_powers(sizes_NF, reference, exponents_of(logs)), errors_N)[1]

    bounds = [(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]))] * len(curved)
    starts = [np.full(len(curved), math.log(start)) for start in (0.3, 1.0)]
    ends = [minimize(loss, start, method="L-BFGS-B", bounds=bounds).x for start in starts] if curved else starts[:1]
    exponents = exponents_of(min(ends, key=loss))
    solution, _ = _solve(_powers(sizes_NF, reference, exponents), errors_N)
    return Law(tuple(keys), reference, float(solution[0]), tuple(map(float, solution[1:])), exponents)


def fit(found: Learned, metric: str, keys: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Fit:
    """A law of some factors, and the same fitted to noise drawn anew (residual bootstrap).

    Args:
        found: the trials; those that miss the metric are left out.
        metric: an accuracy.
        keys: factors, or `crop_passes`.
        resamples: how many laws are fitted to noise drawn anew.
        seed: of the drawing.

    Raises:
        ValueError: as `fit_law` does.
    """
    known = found.take(np.isfinite(found.accuracies[metric]))
    sizes_NF, errors_N = known.sizes(keys), 1 - known.accuracies[metric]
    law = fit_law(keys, sizes_NF, errors_N)
    predicted_N = law.predict(sizes_NF)
    free = len(errors_N) - 1 - 2 * len(keys)
    residuals_N = (errors_N - predicted_N) * math.sqrt(len(errors_N) / max(free, 1))  # a fit comes too near its points
    draw = np.random.default_rng(seed)
    noise = draw.choice(residuals_N, (resamples, len(errors_N)))
    return Fit(law, [fit_law(keys, sizes_NF, predicted_N + noise_N) for noise_N in noise])


def held_out(found: Learned, metric: str) -> HeldOut | None:
    """Fit the laws to all budgets but the largest and predict that; None where too little has finished."""
    known = found.take(np.isfinite(found.accuracies[metric]))
    budgets = np.unique(known.budgets)
    if len(budgets) < 3:
        return None
    largest, small = known.take(known.budgets == budgets[-1]), known.take(known.budgets < budgets[-1])
    measured = largest.accuracies[metric]
    errors: dict[str, Array] = {}
    try:
        for name, keys in (("total", [PASSES]), ("factors", factors(small))):
            law = fit_law(keys, small.sizes(keys), 1 - small.accuracies[metric])
            errors[name] = np.abs(1 - law.predict(largest.sizes(keys)) - measured)
    except ValueError:
        return None
    before = small.take(small.budgets == budgets[-2])
    unchanged = [_mean_of_alike(before, metric, point) for point in largest.points]
    errors["unchanged"] = np.abs(np.array(unchanged) - measured)
    return HeldOut(metric, len(measured), errors)


def doubling(found: Learned, metric: str, key: str = VIEWS) -> Effect | None:
    """What a doubling of a factor changes at equal crop passes: more of it, and fewer epochs.

    The interval is Student's over blocks. None where fewer than two blocks have two sizes.

    Args:
        found: the trials.
        metric: an accuracy.
        key: of the factor.
    """
    known = found.take(np.isfinite(found.accuracies[metric]))
    blocks: dict[tuple[Any, ...], list[int]] = {}
    for place, point in enumerate(known.points):
        others = tuple((name, value) for name, value in point.items() if name not in (key, EPOCHS))
        blocks.setdefault((known.budgets[place], *others), []).append(place)
    slopes = []
    for places in blocks.values():
        doublings = np.log2([float(known.points[n][key]) for n in places])
        if np.ptp(doublings) > 0:
            slopes.append(np.polyfit(doublings, known.accuracies[metric][places], 1)[0])
    if len(slopes) < 2:
        return None
    mean, error = float(np.mean(slopes)), float(np.std(slopes, ddof=1) / math.sqrt(len(slopes)))
    half = float(student.ppf(0.975, len(slopes) - 1)) * error
    return Effect(key, metric, mean, mean - half, mean + half, len(slopes))


class SplitCurves(NamedTuple):
    """What trials of equal budgets reached over their crops, all other keys but epochs held."""

    metric: str
    held: Mapping[str, Any]
    """The other keys that are split, and their values."""
    curves: Mapping[float, Mapping[float, float]]
    """Mean over seeds, by budget and crops, both ascending."""


def split_curves(config: ScalingConfig, found: Learned, metric: str) -> list[SplitCurves]:
    """Curves for each setting of the other keys that are split, images and the like as in `trial`.

    Args:
        config: of the run.
        found: the trials.
        metric: an accuracy.
    """
    known = found.take(np.isfinite(found.accuracies[metric]))
    shared = {key: config.trial.value_of(key) for key in config.learning.vary}
    others = [key for key in config.learning.split if key != VIEWS]
    values: dict[tuple[Any, ...], dict[float, dict[float, list[float]]]] = {}
    for budget, point, value in zip(known.budgets, known.points, known.accuracies[metric], strict=True):
        if VIEWS in point and shared.items() <= point.items():
            curves = values.setdefault(tuple(point[key] for key in others), {})
            curves.setdefault(float(budget), {}).setdefault(float(point[VIEWS]), []).append(float(value))
    return [
        SplitCurves(
            metric,
            dict(zip(others, settings, strict=True)),
            {b: {views: float(np.mean(curves[b][views])) for views in sorted(curves[b])} for b in sorted(curves)},
        )
        for settings, curves in values.items()
    ]


def best_splits(config: ScalingConfig, found: Learned, metric: str, fitted: Fit) -> list[Split]:
    """The measured and the predicted best of every budget.

    Args:
        config: of the run.
        found: the trials.
        metric: an accuracy.
        fitted: the law `factors`.
    """
    known = found.take(np.isfinite(found.accuracies[metric]))
    splits = []
    for budget in np.unique(known.budgets):
        here = known.take(known.budgets == budget)
        means = [_mean_of_alike(here, metric, point) for point in here.points]
        best = int(np.argmax(means))
        candidates = _candidates(config, known, float(budget))
        if not candidates:
            continue
        sizes_NF = np.array([[float(point[key]) for key in fitted.law.keys] for point in candidates])
        errors_N = fitted.law.predict(sizes_NF)
        first = candidates[int(np.argmin(errors_N))]
        firsts = [candidates[int(np.argmin(law.predict(sizes_NF)))] for law in fitted.resampled]
        same = [other.get(VIEWS) == first.get(VIEWS) for other in firsts]
        splits.append(
            Split(
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


def _candidates(config: ScalingConfig, found: Learned, budget: float) -> list[dict[str, Any]]:
    """Whole numbers within the sizes that were tried, whose passes are the budget's; images and width as in `trial`."""
    learning = config.learning
    ranges: dict[str, Sequence[Any]] = {}
    for key in learning.split:
        values = sorted({point[key] for point in found.points})
        whole = all(isinstance(value, int) for value in values)
        ranges[key] = range(values[0], values[-1] + 1) if whole else values
    most = max(int(point[EPOCHS]) for point in found.points)
    points = []
    for combination in product(*ranges.values()):
        point = {key: config.trial.value_of(key) for key in learning.vary} | dict(zip(ranges, combination, strict=True))
        epochs = config.epochs_for(point, int(budget))
        if 0 < epochs <= most:
            points.append({**point, EPOCHS: epochs})
    return points


def _mean_of_alike(found: Learned, metric: str, point: Mapping[str, Any]) -> float:
    """Mean over the trials that differ in seed and epochs alone; over all of them where there is none."""
    wanted = {key: value for key, value in point.items() if key not in ("seed", EPOCHS)}
    alike = [n for n, other in enumerate(found.points) if wanted.items() <= other.items()]
    return float(found.accuracies[metric][alike or slice(None)].mean())


def _budget(config: ScalingConfig, record: TrialRecord) -> int:
    """The planned one that is nearest to what the trial takes."""
    trial = config.trial.with_values(dict(record.point))
    return min(config.learning.crop_passes, key=lambda passes: abs(math.log(trial.crop_passes / passes)))


def _powers(sizes_NF: Array, reference: Sequence[float], exponents: Sequence[float]) -> Array:
    return np.asarray((sizes_NF / np.array(reference)) ** -np.array(exponents))


def _solve(powers_NF: Array, errors_N: Array) -> tuple[Array, float]:
    """Floor and amounts, and the sum of squares that is left."""
    X = np.column_stack([np.ones(len(errors_N)), powers_NF])
    solution = np.linalg.lstsq(X, errors_N, rcond=None)[0]
    if solution[0] < 0:
        solution = np.concatenate([[0.0], np.linalg.lstsq(powers_NF, errors_N, rcond=None)[0]])
    return np.asarray(solution, dtype=np.float64), float(((X @ solution - errors_N) ** 2).sum())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Fits(NamedTuple):
    """All that the learning part says of one accuracy; None for what too few trials leave open."""

    metric: str
    total: Fit | None
    factors: Fit | None
    held_out: HeldOut | None
    views: Effect | None
    splits: Sequence[Split]


def fit_learning(config: ScalingConfig, found: Learned) -> list[Fits]:
    """Everything, for each accuracy that was measured.

    Args:
        config: of the run.
        found: its finished trials.
    """
    return [_fits(config, found, name) for name in ACCURACIES if np.isfinite(found.accuracies[name]).any()]


def _fits(config: ScalingConfig, found: Learned, metric: str) -> Fits:
    def fitted(keys: Sequence[str]) -> Fit | None:
        try:
            return fit(found, metric, keys) if keys else None
        except ValueError:
            return None

    by_factors = fitted(factors(found))
    return Fits(
        metric=metric,
        total=fitted([PASSES]),
        factors=by_factors,
        held_out=held_out(found, metric),
        views=doubling(found, metric),
        splits=best_splits(config, found, metric, by_factors) if by_factors else [],
    )


def fits_tree(every: Sequence[Fits]) -> dict[str, Any]:
    """The fits as fits.json holds them."""
    return {one.metric: _tree(one) for one in every}


def _tree(one: Fits) -> dict[str, Any]:
    laws = {"total": one.total, "factors": one.factors}
    return {
        "laws": {
            name: {
                **fitted.law._asdict(),
                "exponent_intervals_95": [fitted.exponent_interval(place) for place in range(len(fitted.law.keys))],
            }
            for name, fitted in laws.items()
            if fitted
        },
        "held_out": one.held_out
        and {
            "trials": one.held_out.trials,
            "median_absolute_error": {name: one.held_out.median(name) for name in one.held_out.errors},
        },
        "views_doubled_at_equal_crop_passes": one.views and {**one.views._asdict(), "decided": one.views.decided},
        "splits": [split._asdict() for split in one.splits],
    }


def conclusions(every: Sequence[Fits]) -> list[str]:
    """What the learning part found, in sentences with numbers."""
    found = []
    for one in every:
        name = one.metric.replace("_", " ")
        if one.views:
            change = show_change(one.metric, one.views.per_doubling)
            low, high = (
                show_change(one.metric, end).removesuffix(" points") for end in (one.views.low, one.views.high)
            )
            found.append(
                f"At equal crop passes, twice the crops and half the epochs change {name} by {change} (95 % interval "
                f"{low} to {high}, {one.views.blocks} groups): {'decided' if one.views.decided else 'not decided'}."
            )
        if one.held_out:
            errors = {key: f"{100 * one.held_out.median(key):.1f}" for key in one.held_out.errors}
            found.append(
                f"From the smaller budgets, the law of single factors misses {name} at the largest by "
                f"{errors['factors']} points (median of {one.held_out.trials} trials), the law of crop passes alone by "
                f"{errors['total']}, and who expects no change from the budget before by {errors['unchanged']}."
            )
        for split in one.splits[-1:]:
            found.append(
                f"With {show_count(split.budget)} crop passes, {name} was best at {describe_point(split.measured)} "
                f"({show_value(one.metric, split.measured_accuracy)}); predicted best is "
                f"{describe_point(split.predicted)} "
                f"({show_value(one.metric, split.predicted_accuracy)}), and {split.support:.0%} of the laws fitted to "
                "noise drawn anew agree in its crops."
            )
    return found or ["Too few trials have finished to say anything."]


def describe_point(point: Mapping[str, Any]) -> str:
    """Its settings by short names."""
    names = short_names(list(point))
    return ", ".join(f"{name} {show_setting(key, point[key])}" for name, key in zip(names, point, strict=True))

"""Saturating power laws of error, with intervals, and what they predict of a budget that they have not seen.

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
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from cfamc_ray.study.learned import PASSES, Array, Learned, factors

EXPONENTS = (0.05, 3.0)
"""Bounds; what falls more slowly cannot be told from a line, what falls faster not from a step."""
PLAIN_EXPONENT = 0.5
"""Of a factor with fewer than three sizes, which leave its curvature open."""
RESAMPLES = 200


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

    @property
    def helps(self) -> bool:
        """Whether the law `factors` misses by less than who expects no change."""
        return self.median("factors") < self.median("unchanged")


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
    known = found.measured(metric)
    sizes_NF, errors_N = known.sizes(keys), 1 - known.accuracies[metric]
    law = fit_law(keys, sizes_NF, errors_N)
    predicted_N = law.predict(sizes_NF)
    degrees = len(errors_N) - 1 - 2 * len(keys)
    # A fit comes nearer to its points than the truth does.
    residuals_N = (errors_N - predicted_N) * math.sqrt(len(errors_N) / max(degrees, 1))
    draw = np.random.default_rng(seed)
    noise = draw.choice(residuals_N, (resamples, len(errors_N)))
    return Fit(law, [fit_law(keys, sizes_NF, predicted_N + noise_N) for noise_N in noise])


def held_out(found: Learned, metric: str) -> HeldOut | None:
    """Fit the laws to all budgets but the largest and predict that; None where too little has finished."""
    known = found.measured(metric)
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
    unchanged = [before.mean_of_alike(metric, point) for point in largest.points]
    errors["unchanged"] = np.abs(np.array(unchanged) - measured)
    return HeldOut(metric, len(measured), errors)


def _powers(sizes_NF: Array, reference: Sequence[float], exponents: Sequence[float]) -> Array:
    return np.asarray((sizes_NF / np.array(reference)) ** -np.array(exponents))


def _solve(powers_NF: Array, errors_N: Array) -> tuple[Array, float]:
    """Floor and amounts, and the sum of squares that is left."""
    X = np.column_stack([np.ones(len(errors_N)), powers_NF])
    solution = np.linalg.lstsq(X, errors_N, rcond=None)[0]
    if solution[0] < 0:
        solution = np.concatenate([[0.0], np.linalg.lstsq(powers_NF, errors_N, rcond=None)[0]])
    return np.asarray(solution, dtype=np.float64), float(((X @ solution - errors_N) ** 2).sum())

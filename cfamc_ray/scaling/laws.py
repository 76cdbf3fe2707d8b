"""Saturating power laws of error, with intervals, and what they predict of a budget that they have not seen.

Error is one minus an accuracy. A law says that it falls to a floor as a sum of terms, each the power of a factor or
the product of those of two:

    error = floor + Σ_t amount_t · Π_{f in t} (size_f / reference_f)^-exponent_f

The first as Hoffmann et al. (arXiv 2203.15556) have it for parameters and data. The law `total` knows the crop passes
alone, however they are split; `factors` knows crops, replays, epochs, images and width one by one, each of which
saturates by itself, so that a balanced split wins in the end; in `pairs` those that share a budget also change what the
others do, as replays do with crops. Which of them to believe is shown by what they predict of the largest budget from
the smaller ones.

Shapes: N trials, F factors, T terms.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from cfamc_ray.config.scaling import EPOCHS
from cfamc_ray.scaling.trial_table import PASSES, Array, TrialTable, factors

Terms = Sequence[tuple[str, ...]]
"""What a law is a sum of: a factor, or several whose powers are multiplied."""
TOTAL, ADDITIVE, INTERACTIONS = "total", "additive", "interactions"
UNCHANGED = "unchanged"

EXPONENTS = (0.05, 3.0)
"""Bounds; what falls more slowly cannot be told from a line, what falls faster not from a step."""
PLAIN_EXPONENT = 0.5
"""Of a factor with fewer than three sizes, which leave its curvature open."""
RESAMPLES = 200


class Law(NamedTuple):
    """Error as a floor and a sum of powers of sizes."""

    terms: Terms
    floor: float
    amounts: tuple[float, ...]
    """Error above the floor that is owed to each term at the references; negative where more of it makes worse."""
    reference: Mapping[str, float]
    """Size of each factor that its powers are relative to."""
    exponents: Mapping[str, float]

    def predict(self, sizes_NF: Array) -> Array:
        """errors_N; factors as in `exponents`."""
        terms_NT = _multiply(self.terms, _powers(sizes_NF, self.reference, self.exponents))
        return np.asarray(self.floor + terms_NT @ np.array(self.amounts))


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

    def exponent_interval(self, key: str) -> tuple[float, float]:
        """Of the exponent of a factor, 95 %."""
        low, high = np.quantile([law.exponents[key] for law in self.resampled], (0.025, 0.975))
        return float(low), float(high)


class HeldOut(NamedTuple):
    """What was predicted of the largest budget from the smaller ones, as absolute errors of accuracy."""

    metric: str
    trials: int
    errors: Mapping[str, Array]
    """By law, and of `unchanged`: what the same configuration reached at the largest of the smaller budgets."""

    def mean(self, name: str) -> float:
        """Of the absolute errors."""
        return float(np.mean(self.errors[name]))

    @property
    def best(self) -> str:
        """The law that errs least, of those that tell splits apart."""
        return min((name for name in (ADDITIVE, INTERACTIONS) if name in self.errors), key=self.mean)

    @property
    def helps(self) -> bool:
        """Whether that law errs less than who expects no change."""
        return self.mean(self.best) < self.mean(UNCHANGED)


def forms(found: TrialTable, split: Collection[str]) -> dict[str, Terms]:
    """The laws that trials can have, by name.

    Args:
        found: the trials.
        split: keys that share a budget; epochs do too.
    """
    keys = factors(found)
    alone = [(key,) for key in keys]
    sharing = [key for key in keys if key in split or key == EPOCHS]
    return {TOTAL: [(PASSES,)], ADDITIVE: alone, INTERACTIONS: [*alone, *combinations(sharing, 2)]}


def fit_law(terms: Terms, sizes_NF: Array, errors_N: Array, *, near: Law | None = None) -> Law:
    """Least squares; the floor is not negative.

    Args:
        terms: what the law is a sum of; factors are numbered as they first appear in it.
        sizes_NF: positive.
        errors_N: from 0 to 1.
        near: a law of nearly the same errors, from which the search for exponents then starts.

    Raises:
        ValueError: where there are no more trials than the law has free numbers, or a factor has one size alone.
    """
    keys = keys_of(terms)
    columns = dict(zip(keys, sizes_NF.T, strict=True))
    for key, column in columns.items():
        if len(set(column)) < 2:
            raise ValueError(f"{key} has one size alone, so nothing can be said of others")
    reference = {key: float(np.exp(np.log(column).mean())) for key, column in columns.items()}
    curved = _curved(keys, sizes_NF)
    free = _free(terms, sizes_NF)
    if len(errors_N) <= free:
        raise ValueError(f"a law of {', '.join(keys)} has {free} free numbers and needs more trials than that")

    def exponents_of(logs: Array) -> dict[str, float]:
        return dict.fromkeys(keys, PLAIN_EXPONENT) | dict(zip(curved, map(float, np.exp(logs)), strict=True))

    def solve(logs: Array) -> tuple[Array, float]:
        return _solve(_multiply(terms, _powers(sizes_NF, reference, exponents_of(logs))), errors_N)

    def loss(logs: Array) -> float:
        return solve(logs)[1]

    bounds = [(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]))] * len(curved)
    guesses = [near.exponents] if near else [dict.fromkeys(keys, start) for start in (0.3, 1.0)]
    starts = [np.log([guess[key] for key in curved]) for guess in guesses]
    ends = [minimize(loss, start, method="L-BFGS-B", bounds=bounds).x for start in starts] if curved else starts[:1]
    best = min(ends, key=loss)
    solution, _ = solve(best)
    return Law(tuple(terms), float(solution[0]), tuple(map(float, solution[1:])), reference, exponents_of(best))


def fit(found: TrialTable, metric: str, terms: Terms, *, resamples: int = RESAMPLES, seed: int = 0) -> Fit:
    """A law, and the same fitted to noise drawn anew (residual bootstrap).

    Args:
        found: the trials; those that miss the metric are left out.
        metric: an accuracy.
        terms: of the law.
        resamples: how many laws are fitted to noise drawn anew.
        seed: of the drawing.

    Raises:
        ValueError: as `fit_law` does.
    """
    known = found.measured(metric)
    sizes_NF, errors_N = known.sizes(keys_of(terms)), 1 - known.accuracies[metric]
    law = fit_law(terms, sizes_NF, errors_N)
    predicted_N = law.predict(sizes_NF)
    degrees = len(errors_N) - _free(terms, sizes_NF)
    # A fit comes nearer to its points than the truth does.
    residuals_N = (errors_N - predicted_N) * math.sqrt(len(errors_N) / degrees)
    draw = np.random.default_rng(seed)
    noise = draw.choice(residuals_N, (resamples, len(errors_N)))
    return Fit(law, [fit_law(terms, sizes_NF, predicted_N + noise_N, near=law) for noise_N in noise])


def held_out(found: TrialTable, metric: str, split: Collection[str]) -> HeldOut | None:
    """Fit the laws to all budgets but the largest and predict that; None where too little has finished.

    Args:
        found: the trials.
        metric: an accuracy.
        split: keys that share a budget.
    """
    known = found.measured(metric)
    budgets = np.unique(known.budgets)
    if len(budgets) < 3:
        return None
    largest, small = known.take(known.budgets == budgets[-1]), known.take(known.budgets < budgets[-1])
    measured = largest.accuracies[metric]
    errors: dict[str, Array] = {}
    for name, terms in forms(small, split).items():
        keys = keys_of(terms)
        with suppress(ValueError):
            law = fit_law(terms, small.sizes(keys), 1 - small.accuracies[metric])
            errors[name] = np.abs(1 - law.predict(largest.sizes(keys)) - measured)
    if ADDITIVE not in errors:
        return None
    before = small.take(small.budgets == budgets[-2])
    unchanged = [before.mean_of_alike(metric, point) for point in largest.points]
    errors[UNCHANGED] = np.abs(np.array(unchanged) - measured)
    return HeldOut(metric, len(measured), errors)


def keys_of(terms: Terms) -> list[str]:
    """Factors of a law, as they first appear in it."""
    return list(dict.fromkeys(key for term in terms for key in term))


def _curved(keys: Sequence[str], sizes_NF: Array) -> list[str]:
    """Factors whose exponent can be found."""
    return [key for key, column in zip(keys, sizes_NF.T, strict=True) if len(set(column)) > 2]


def _free(terms: Terms, sizes_NF: Array) -> int:
    """Numbers that are fitted: the floor, an amount for each term, exponents."""
    return 1 + len(terms) + len(_curved(keys_of(terms), sizes_NF))


def _powers(sizes_NF: Array, reference: Mapping[str, float], exponents: Mapping[str, float]) -> dict[str, Array]:
    columns = zip(exponents, sizes_NF.T, strict=True)
    return {key: np.asarray((column / reference[key]) ** -exponents[key]) for key, column in columns}


def _multiply(terms: Terms, powers: Mapping[str, Array]) -> Array:
    return np.column_stack([math.prod(powers[key] for key in term) for term in terms])


def _solve(terms_NT: Array, errors_N: Array) -> tuple[Array, float]:
    """Floor and amounts, and the sum of squares that is left."""
    X = np.column_stack([np.ones(len(errors_N)), terms_NT])
    solution = np.linalg.lstsq(X, errors_N, rcond=None)[0]
    if solution[0] < 0:
        solution = np.concatenate([[0.0], np.linalg.lstsq(terms_NT, errors_N, rcond=None)[0]])
    return np.asarray(solution, dtype=np.float64), float(((X @ solution - errors_N) ** 2).sum())

"""Does what training records predict robustness: its correlations with the robust gap and with robust accuracy."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from cfamc_ray.config.losses import LOSSES
from cfamc_ray.config.measures import MEASURES
from cfamc_ray.config.stages import trunk_part
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.effects import FEWEST
from cfamc_ray.metrics import METRICS
from cfamc_ray.space.encoding import encode
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Column, Table

Array = npt.NDArray[np.float64]
Study = tuple[StudyConfig, Sequence[TrialRecord]]
Held = Literal["nothing", "keys", "configuration"]

SMALL = 0.3
"""A correlation whose interval lies within ±SMALL explains less than a tenth of the variance of the ranks."""
ALL = "all"
"""Name of all studies together; each value is then compared within its study."""
SEED = "seed"
"""Key that makes no other configuration, only another sample of it."""
TARGETS: dict[str, tuple[str, Callable[[TrialRecord], float]]] = {
    "robust_gap": ("robust gap", lambda record: record.value("clean_accuracy") - record.value("robust_accuracy")),
    "robust_accuracy": (METRICS["robust_accuracy"].label, lambda record: record.value("robust_accuracy")),
}
"""Label and value of each target; the gap is clean minus robust accuracy."""


class Relation(NamedTuple):
    """The rank correlation of a recorded value with a target over the finished trials of a study."""

    study: str
    """Name of the study, or `ALL`."""
    measured: str
    """Name of the recorded value, after the last epoch."""
    target: str
    """Name among `TARGETS`, at the balanced operating point."""
    held: Held
    """What is held fixed: nothing; the searched keys, whose linear effects on both values are removed; or the whole
    configuration, whose means over its seeds are removed."""
    values: tuple[tuple[float, float], ...]
    """Recorded value and target of each trial that counts."""
    correlation: float
    """Spearman's correlation of what is left of both values; NaN if there are too few trials or a value does not
    vary."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the correlation over trials."""

    @property
    def decision(self) -> str:
        """What the interval says."""
        low, high = self.interval
        if math.isnan(low):
            return "too few trials, or no variation"
        if low > 0 or high < 0:
            return "predicts"
        return "does not" if low > -SMALL and high < SMALL else "undecided"


def recorded_values() -> list[str]:
    """Names of what may predict robustness: the loss, the terms of all losses, and all measures."""
    terms = (term for loss in LOSSES.classes.values() for term in loss.terms)
    return list(dict.fromkeys(["loss", *terms, *MEASURES.classes]))


def label_of(name: str) -> str:
    """Label of a target or a recorded value; terms of a loss need not be metrics."""
    if name in TARGETS:
        return TARGETS[name][0]
    return METRICS[name].label if name in METRICS else name.replace("_", " ")


def find_relations(studies: Sequence[Study], *, resamples: int = 2000, seed: int = 0) -> list[Relation]:
    """Relations of each study, and of several studies together, for all values that any trial has recorded.

    A trial counts if it has finished, is no fork, and has both values; one that a warm start copied from another of
    the studies counts once.

    Args:
        studies: config and records of each; at least one.
        resamples: number of resamples of the bootstrap.
        seed: seed of the bootstrap.
    """
    names = {config.name for config, _ in studies}
    whole = [
        (config, [r for r in records if _counts(r) and r.source.partition("/")[0] not in names - {config.name}])
        for config, records in studies
    ]
    groups = [(config.name, [(config, records)]) for config, records in whole]
    if len(whole) > 1:
        groups.append((ALL, whole))
    relations = []
    for name, members in groups:
        for measured in recorded_values():
            for target in TARGETS:
                for held in ("nothing", "keys", "configuration"):
                    strata = [_stratum(*member, measured, target, held) for member in members]
                    if values := tuple((x, y) for stratum in strata for x, y in zip(*stratum[:2], strict=True)):
                        found = _correlate(strata, resamples=resamples, seed=seed)
                        relations.append(Relation(name, measured, target, held, values, *found))
    return relations


def mechanism_table(relations: Sequence[Relation]) -> Table:
    """A row for each relation."""
    columns = [
        *map(Column, ("study", "measured", "target", "held", "trials", "correlation", "low", "high", "decision"))
    ]
    rows = [
        {
            "study": one.study,
            "measured": label_of(one.measured),
            "target": label_of(one.target),
            "held": one.held,
            "trials": len(one.values),
            "correlation": _or_none(one.correlation),
            "low": _or_none(one.interval[0]),
            "high": _or_none(one.interval[1]),
            "decision": one.decision,
        }
        for one in relations
    ]
    return Table("mechanism", "Rank correlation with robustness, and its 95 % interval", columns, rows)


def _counts(record: TrialRecord) -> bool:
    return record.status == "finished" and not trunk_part(record.point)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _stratum(
    config: StudyConfig, records: Sequence[TrialRecord], measured: str, target: str, held: Held
) -> tuple[Array, Array, Array]:
    """Recorded values, targets and the columns that are held fixed, of the trials of one study that count."""
    of_target = TARGETS[target][1]
    chosen = [r for r in records if math.isfinite(r.value(measured)) and math.isfinite(of_target(r))]
    space = {key: written for key, written in config.space.items() if key != SEED}
    points = [tuple(record.point[key] for key in space) for record in chosen]
    if held == "configuration":
        repeated = [n for n, point in enumerate(points) if points.count(point) > 1]
        chosen, points = [chosen[n] for n in repeated], [points[n] for n in repeated]
        X_NF = np.array([[float(point == each) for each in dict.fromkeys(points)] for point in points])
    else:
        encoded = [encode(space, record.point) if held == "keys" else [] for record in chosen]
        X_NF = np.array([[1.0, *features] for features in encoded])
    x_N = np.array([record.value(measured) for record in chosen])
    return x_N, np.array([of_target(record) for record in chosen]), X_NF


def _correlate(
    strata: Sequence[tuple[Array, Array, Array]], *, resamples: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of the residuals within the strata, and its interval.

    Pairs of ranks are resampled, and the interval is mirrored in Fisher's z ("basic" bootstrap), where it is widened
    by sqrt((n - 3) / (n - 3 - d)) for the d degrees of freedom that removing the columns takes. A correlation of ±1,
    whose z is infinite, counts as half of Spearman's smallest step less.
    """
    strata = [stratum for stratum in strata if len(stratum[0])]
    trials = sum(len(x_N) for x_N, _, _ in strata)
    degrees = sum(int(np.linalg.matrix_rank(X_NF)) for _, _, X_NF in strata) - 1
    e_N, f_N = (np.concatenate([_ranks(stratum[k], stratum[2]) for stratum in strata]) for k in (0, 1))
    if trials - degrees < FEWEST or not e_N.any() or not f_N.any():
        return math.nan, (math.nan, math.nan)
    draws_RN = np.random.default_rng(seed).integers(trials, size=(resamples, trials))
    correlation, largest = _pearson(e_N, f_N), 1 - 6 / (trials**3 - trials)
    z = np.arctanh(correlation.clip(-largest, largest))
    spread_R = np.arctanh(_pearson(e_N[draws_RN], f_N[draws_RN]).clip(-largest, largest)) - z
    width = math.sqrt((trials - 3) / (trials - 3 - degrees))
    low, high = np.tanh(z - width * np.quantile(spread_R, (0.975, 0.025)))
    return float(correlation), (float(low), float(high))


def _ranks(values_N: Array, X_NF: Array) -> Array:
    """Centred ranks, as shares of the trials, of what is left of values after least squares on the columns."""
    scaled_N = (values_N - values_N[0]) / (np.ptp(values_N) or 1.0)
    left_N = scaled_N - X_NF @ np.linalg.lstsq(X_NF, scaled_N, rcond=None)[0]
    ranks_N: Array = rankdata(left_N.round(9))  # differences by rounding alone are ties
    ranks_N -= ranks_N.mean()
    return ranks_N / len(ranks_N)


def _pearson(e_N: Array, f_N: Array) -> Array:
    """Correlations along the last axis; 0 where a value is constant."""
    e_N, f_N = (values_N - values_N.mean(-1, keepdims=True) for values_N in (e_N, f_N))
    scale: Array = np.sqrt((e_N**2).sum(-1) * (f_N**2).sum(-1))
    correlation: Array = (e_N * f_N).sum(-1) / np.where(scale > 0, scale, 1.0)
    return correlation

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
from cfamc_ray.front.candidates import without_seed
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
COLUMNS = [
    *map(Column, ("study", "measured", "target", "held", "trials", "configurations")),
    *map(Column, ("correlation", "low", "high", "decision")),
]


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
    configurations: int
    """Number of different configurations of these trials."""
    correlation: float
    """Spearman's correlation of what is left of both values; NaN if there are too few trials or a value does not
    vary."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the correlation. Seeds of a configuration are no independent trials, so they are
    drawn together, except where the configuration is held fixed."""

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
                    strata = [stratum for stratum in strata if len(stratum.x_N)]
                    if strata:
                        values = tuple(pair for one in strata for pair in zip(one.x_N, one.y_N, strict=True))
                        configurations = sum(len(set(one.configuration_N)) for one in strata)
                        found = _correlate(strata, apart=held == "configuration", resamples=resamples, seed=seed)
                        relations.append(Relation(name, measured, target, held, values, configurations, *found))
    return relations


def mechanism_table(relations: Sequence[Relation]) -> Table:
    """A row for each relation."""
    rows = [
        {
            "study": one.study,
            "measured": label_of(one.measured),
            "target": label_of(one.target),
            "held": one.held,
            "trials": len(one.values),
            "configurations": one.configurations,
            "correlation": _or_none(one.correlation),
            "low": _or_none(one.interval[0]),
            "high": _or_none(one.interval[1]),
            "decision": one.decision,
        }
        for one in relations
    ]
    return Table("mechanism", "Rank correlation with robustness, and its 95 % interval", COLUMNS, rows)


def _counts(record: TrialRecord) -> bool:
    return record.status == "finished" and not trunk_part(record.point)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Stratum(NamedTuple):
    """The trials of one study that count."""

    x_N: Array
    """Recorded values."""
    y_N: Array
    """Targets."""
    held_NF: Array
    """Columns that are held fixed."""
    configuration_N: list[int]
    """Number of the configuration of each trial."""


def _stratum(config: StudyConfig, records: Sequence[TrialRecord], measured: str, target: str, held: Held) -> _Stratum:
    of_target = TARGETS[target][1]
    chosen = [r for r in records if math.isfinite(r.value(measured)) and math.isfinite(of_target(r))]
    space = {key: written for key, written in config.space.items() if key != SEED}
    points = [without_seed(record) for record in chosen]
    if held == "configuration":
        repeated = [n for n, point in enumerate(points) if points.count(point) > 1]
        chosen, points = [chosen[n] for n in repeated], [points[n] for n in repeated]
    places = {point: place for place, point in enumerate(dict.fromkeys(points))}
    configuration_N = [places[point] for point in points]
    if held == "configuration":
        held_NF = np.eye(len(places))[configuration_N]
    else:
        held_NF = np.array([[1.0, *(encode(space, r.point) if held == "keys" else ())] for r in chosen])
    x_N, y_N = np.array([r.value(measured) for r in chosen]), np.array([of_target(r) for r in chosen])
    return _Stratum(x_N, y_N, held_NF, configuration_N)


def _correlate(
    strata: Sequence[_Stratum], *, apart: bool, resamples: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of the residuals within the strata, and its interval.

    Units are drawn with replacement: configurations, or single trials if `apart`. The interval is mirrored in Fisher's
    z ("basic" bootstrap), and widened there by sqrt((n - 3) / (n - 3 - d)) for n units and the d degrees of freedom
    that removing the columns takes. A correlation of ±1, whose z is infinite, counts as half of Spearman's smallest
    step less.
    """
    e_N = np.concatenate([_ranks(one.x_N, one.held_NF) for one in strata])
    f_N = np.concatenate([_ranks(one.y_N, one.held_NF) for one in strata])
    names = [
        (n, own if apart else place) for n, one in enumerate(strata) for own, place in enumerate(one.configuration_N)
    ]
    units = {name: place for place, name in enumerate(dict.fromkeys(names))}
    n, degrees = len(units), sum(int(np.linalg.matrix_rank(one.held_NF)) for one in strata) - 1
    if n - degrees < FEWEST or not e_N.any() or not f_N.any():
        return math.nan, (math.nan, math.nan)
    sums_U6 = np.zeros((n, 6))
    unit_N = [units[name] for name in names]
    np.add.at(sums_U6, unit_N, np.stack([np.ones_like(e_N), e_N, f_N, e_N**2, f_N**2, e_N * f_N], axis=1))
    drawn_RU = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    correlation, largest = _pearson(sums_U6.sum(0)), 1 - 6 / (n**3 - n)
    z = np.arctanh(correlation.clip(-largest, largest))
    spread_R = np.arctanh(_pearson(drawn_RU @ sums_U6).clip(-largest, largest)) - z
    low, high = np.tanh(z - math.sqrt((n - 3) / (n - 3 - degrees)) * np.quantile(spread_R, (0.975, 0.025)))
    return float(correlation), (float(low), float(high))


def _ranks(values_N: Array, X_NF: Array) -> Array:
    """Centred ranks, as shares of the trials, of what is left of values after least squares on the columns."""
    scaled_N = (values_N - values_N[0]) / (np.ptp(values_N) or 1.0)
    left_N = scaled_N - X_NF @ np.linalg.lstsq(X_NF, scaled_N, rcond=None)[0]
    ranks_N: Array = rankdata(left_N.round(9))  # differences by rounding alone are ties
    ranks_N -= ranks_N.mean()
    return ranks_N / len(ranks_N)


def _pearson(sums_6: Array) -> Array:
    """Correlation from the sums of 1, e, f, e², f² and e f, along the last axis; 0 where a value is constant."""
    number, e, f, ee, ff, ef = np.moveaxis(sums_6, -1, 0)
    variances = (number * ee - e**2).clip(0) * (number * ff - f**2).clip(0)
    correlation: Array = (number * ef - e * f) / np.sqrt(np.where(variances > 1e-12, variances, np.inf))
    return correlation.clip(-1, 1)

"""Effects of the searched keys on the objectives: importances and trends."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial
from scipy.special import stdtrit

from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.stages import trunk_part
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.types import Scalar
from cfamc_ray.formatting import Norms
from cfamc_ray.metrics import Direction, find_metric
from cfamc_ray.space.encoding import distributions, encode, ends_of
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Column, Table
from cfamc_ray.store.trial_tables import applied_part

Array = npt.NDArray[np.float64]
FEWEST = 8
"""Finished trials that importances need."""


class Effect(NamedTuple):
    """The effect of a searched key on a metric over the finished trials."""

    key: str
    metric: str
    settings: tuple[Scalar, ...]
    """Value of the key in each finished trial that has it."""
    results: tuple[float, ...]
    """Value of the metric in the same trials."""
    importance: float
    """PED-ANOVA importance, from 0 to 1: how much the key separates the better trials from all; NaN for too few
    trials."""
    slope: float
    """Change of the metric from the low to the high end of the key with the other keys held fixed (least squares on
    each key's own scale); NaN where the trials do not determine it, and for a key without an order."""
    interval: tuple[float, float]
    """Student's 95 % interval of the slope."""
    log: bool
    """Whether the key's own scale is logarithmic."""
    ends: tuple[float, float]
    """Low and high end of a numeric key; NaN for another."""
    trend: tuple[float, float]
    """The metric at these ends, with the other keys at their means."""
    norms: Norms
    """Norms of radii."""

    @property
    def significant(self) -> bool:
        """Whether the interval of the slope excludes zero."""
        low, high = self.interval
        return low > 0 or high < 0


def find_effects(
    config: StudyConfig, records: Sequence[TrialRecord], metrics: Mapping[str, Direction] | None = None
) -> list[Effect]:
    """The effect of each searched key that differs between the trials on each metric.

    The effect of a component's key is that among the trials with this component.

    Args:
        config: of the study.
        records: of its trials; only finished ones that have the metric and are no forks count.
        metrics: metrics and their directions; None: the objectives.
    """
    effects: list[Effect] = []
    searched = list(distributions(config.space))
    finished = [record for record in records if record.status == "finished" and not trunk_part(record.point)]
    applied = [applied_part(config, record.point) for record in finished]
    for metric, direction in (metrics or config.objectives).items():
        measured = [n for n, record in enumerate(finished) if math.isfinite(record.value(metric))]
        # The trials whose components have a key: all of them for most keys.
        having = {key: tuple(n for n in measured if key in applied[n]) for key in searched}
        found: dict[str, Effect] = {}
        for places in dict.fromkeys(having.values()):
            alike = [finished[n] for n in places]
            shared = [key for key in searched if set(places) <= set(having[key])]
            differing = [key for key in shared if len({record.point[key] for record in alike}) > 1]
            every = _effects_in(config, alike, differing, metric, direction)
            found |= {effect.key: effect for effect in every if having[effect.key] == places}
        effects += [found[key] for key in searched if key in found]
    return effects


def _effects_in(
    config: StudyConfig, trials: Sequence[TrialRecord], keys: Sequence[str], metric: str, direction: Direction
) -> list[Effect]:
    """The effects of keys that all trials have, and that differ between them."""
    y_N = np.array([record.value(metric) for record in trials])
    importance = _importances(config, trials, keys, y_N, direction)
    slopes = _slopes(config, trials, keys, y_N)
    effects = []
    for key in keys:
        slope, half = slopes.get(key, (math.nan, math.nan))
        ends, log = ends_of(config.space[key])
        place = float(np.mean([encode({key: config.space[key]}, record.point)[0] for record in trials]))
        effects.append(
            Effect(
                key=key,
                metric=metric,
                settings=tuple(record.point[key] for record in trials),
                results=tuple(y_N.tolist()),
                importance=importance.get(key, math.nan),
                slope=slope,
                interval=(slope - half, slope + half),
                log=log,
                ends=ends,
                trend=(float(y_N.mean()) - slope * place, float(y_N.mean()) + slope * (1 - place)),
                norms=norms_of(config),
            )
        )
    return effects


def effects_table(effects: Sequence[Effect]) -> Table:
    """A row for each effect."""
    columns = [*map(Column, ("metric", "key", "importance", "change", "low", "high", "significant"))]
    rows = []
    for effect in effects:
        low, high = effect.interval
        numbers = {"importance": effect.importance, "change": effect.slope, "low": low, "high": high}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        metric = find_metric(effect.metric).label
        rows.append({"metric": metric, "key": effect.key, **finite, "significant": effect.significant})
    return Table("effects", "Change from the low to the high end of each key, with its 95 % interval", columns, rows)


def _importances(
    config: StudyConfig, finished: Sequence[TrialRecord], keys: Sequence[str], y_N: Array, direction: Direction
) -> dict[str, float]:
    if len(finished) < FEWEST or not keys or np.ptp(y_N) == 0:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator  # noqa: PLC0415 (slow to import, and reports alone need it)

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction=direction)
    finally:
        optuna.logging.set_verbosity(verbosity)
    searched = distributions({key: config.space[key] for key in keys})
    for record, value in zip(finished, y_N, strict=True):
        params = {key: record.point[key] for key in keys}
        study.add_trial(create_trial(params=params, distributions=searched, value=float(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.importance.get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), params=list(keys)
        )


def _slopes(
    config: StudyConfig, finished: Sequence[TrialRecord], keys: Sequence[str], y_N: Array
) -> dict[str, tuple[float, float]]:
    """Slope and half the width of its interval for each numeric key; empty where there are too few trials."""
    columns: dict[str, Array] = {}
    for key in keys:
        encoded = np.array([encode({key: config.space[key]}, record.point) for record in finished])
        # One-hot columns sum to one, so the last of them is redundant.
        columns[key] = encoded if encoded.shape[1] == 1 else encoded[:, :-1]
    X_NF = np.hstack([np.ones((len(finished), 1)), *columns.values()])
    spare = len(finished) - np.linalg.matrix_rank(X_NF) if len(finished) else 0
    if spare < 1:
        return {}
    inverse_FF = np.linalg.pinv(X_NF.T @ X_NF)
    shifted_N = y_N - y_N[0]  # so that a constant has a slope of exactly zero
    weight_F = inverse_FF @ X_NF.T @ shifted_N
    variance = float(((shifted_N - X_NF @ weight_F) ** 2).sum()) / spare
    half_F = stdtrit(spare, 0.975) * np.sqrt(variance * np.diag(inverse_FF))
    slopes, place = {}, 1
    for key, column in columns.items():
        others = np.delete(X_NF, place, axis=1)
        alone = column.shape[1] == 1 and np.linalg.matrix_rank(others) < np.linalg.matrix_rank(X_NF)
        # A key that the other keys determine has no effect of its own.
        if alone and math.isfinite(ends_of(config.space[key])[0][0]):
            slopes[key] = (float(weight_F[place]), float(half_F[place]))
        place += column.shape[1]
    return slopes

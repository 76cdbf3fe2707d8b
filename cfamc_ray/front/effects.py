"""Which searched key moves which objective, and by how much."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial
from scipy.stats import t

from cfamc_ray.config.ranges import Choice, FloatRange, IntRange, Range
from cfamc_ray.config.study import Direction, StudyConfig
from cfamc_ray.config.types import Scalar
from cfamc_ray.space.encoding import distributions, encode
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Table

Array = npt.NDArray[np.float64]
FEWEST = 8
"""Finished trials below which no share of the variance means anything."""


class Effect(NamedTuple):
    """What one searched key does to one metric over the finished trials."""

    key: str
    metric: str
    settings: tuple[Scalar, ...]
    """Of every finished trial its value of the key."""
    results: tuple[float, ...]
    """And of the metric."""
    importance: float
    """Share, from 0 to 1, of what sets the better trials apart (PED-ANOVA); NaN for too few trials."""
    slope: float
    """Change of the metric from the low to the high end of the key, the other keys held (least squares on the keys'
    own scales); NaN where the trials do not decide it, and for a key without an order."""
    interval: tuple[float, float]
    """Of the slope, Student's, 95 %."""
    log: bool
    """Whether the key's own scale is logarithmic."""
    ends: tuple[float, float]
    """Low and high end of a key that is a number; NaN for another."""
    trend: tuple[float, float]
    """The metric at these ends, the other keys as they are on average."""

    @property
    def significant(self) -> bool:
        """Whether the interval of the slope leaves out zero."""
        low, high = self.interval
        return low > 0 or high < 0


def find_effects(
    config: StudyConfig, records: Sequence[TrialRecord], metrics: Mapping[str, Direction] | None = None
) -> list[Effect]:
    """Of each metric the effect of each key that is searched and differs between the trials.

    Args:
        config: of the study.
        records: of its trials; the finished ones that have the metric count.
        metrics: and their directions; the objectives unless given.
    """
    found = []
    for metric, direction in (metrics or config.objectives).items():
        finished = [r for r in records if r.status == "finished" and math.isfinite(r.value(metric))]
        keys = [key for key in distributions(config.space) if len({r.point[key] for r in finished}) > 1]
        y_N = np.array([record.value(metric) for record in finished])
        importance = _importances(config, finished, keys, y_N, direction)
        slopes = _slopes(config, finished, keys, y_N)
        for key in keys:
            slope, half = slopes.get(key, (math.nan, math.nan))
            low, high, log = _scale(config.space[key])
            place = float(np.mean([encode({key: config.space[key]}, r.point)[0] for r in finished]))
            found.append(
                Effect(
                    key=key,
                    metric=metric,
                    settings=tuple(record.point[key] for record in finished),
                    results=tuple(y_N.tolist()),
                    importance=importance.get(key, math.nan),
                    slope=slope,
                    interval=(slope - half, slope + half),
                    log=log,
                    ends=(low, high),
                    trend=(float(y_N.mean()) - slope * place, float(y_N.mean()) + slope * (1 - place)),
                )
            )
    return found


def effects_table(effects: Sequence[Effect]) -> Table:
    """A row for each effect."""
    columns = ["metric", "key", "importance", "change", "low", "high", "significant"]
    rows = [
        {
            "metric": effect.metric.replace("_", " "),
            "key": effect.key,
            "importance": effect.importance,
            "change": effect.slope,
            "low": effect.interval[0],
            "high": effect.interval[1],
            "significant": effect.significant,
        }
        for effect in effects
    ]
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
    """Slope and half its interval, of every key that is a number; empty where there are too few trials for all keys."""
    columns: dict[str, Array] = {}
    for key in keys:
        encoded = np.array([encode({key: config.space[key]}, record.point) for record in finished])
        # Of the values of a choice without an order one is the rest.
        columns[key] = encoded if encoded.shape[1] == 1 else encoded[:, :-1]
    X_NF = np.hstack([np.ones((len(finished), 1)), *columns.values()])
    spare = len(finished) - np.linalg.matrix_rank(X_NF) if len(finished) else 0
    if spare < 1:
        return {}
    inverse_FF = np.linalg.pinv(X_NF.T @ X_NF)
    shifted_N = y_N - y_N[0]  # so that a constant has a slope of exactly zero
    weight_F = inverse_FF @ X_NF.T @ shifted_N
    variance = float(((shifted_N - X_NF @ weight_F) ** 2).sum()) / spare
    half_F = t.ppf(0.975, spare) * np.sqrt(variance * np.diag(inverse_FF))
    found, place = {}, 1
    for key, column in columns.items():
        others = np.delete(X_NF, place, axis=1)
        alone = column.shape[1] == 1 and np.linalg.matrix_rank(others) < np.linalg.matrix_rank(X_NF)
        if alone and math.isfinite(
            _scale(config.space[key])[0]
        ):  # what other keys explain as well cannot be told apart
            found[key] = (float(weight_F[place]), float(half_F[place]))
        place += column.shape[1]
    return found


def _scale(written: Range) -> tuple[float, float, bool]:
    """Ends of a key that is a number, and whether `encode` takes its logarithm; NaN for another."""
    match written:
        case IntRange(bounds=(low, high), log=log) | FloatRange(bounds=(low, high), log=log):
            return float(low), float(high), log
        case Choice(values=values) if all(type(value) in (int, float) for value in values):
            numbers = [float(value) for value in values]  # type: ignore[arg-type]
            return min(numbers), max(numbers), min(numbers) > 0
    return math.nan, math.nan, False

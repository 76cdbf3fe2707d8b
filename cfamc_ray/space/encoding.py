"""Conversions of ranges and points: to Optuna's distributions, and to numbers for models and regressions."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range
from cfamc_ray.config.stages import trunk_epochs, trunk_of
from cfamc_ray.config.study import Point, StudyConfig

if TYPE_CHECKING:  # commands of a single trial run where Optuna is absent
    from optuna.distributions import BaseDistribution


def distributions(space: Mapping[str, Range]) -> dict[str, "BaseDistribution"]:
    """Optuna's distributions of the ranges, without constants."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: PLC0415

    searched: dict[str, BaseDistribution] = {}
    for key, written in space.items():
        match written:
            case IntRange(bounds=(low, _), log=log, step=step):
                searched[key] = IntDistribution(low, written.last, log=log, step=step)
            case FloatRange(bounds=(low, high), log=log):
                searched[key] = FloatDistribution(low, high, log=log)
            case Choice(values=values):
                searched[key] = CategoricalDistribution(values)
    return searched


def constants(space: Mapping[str, Range]) -> dict[str, Any]:
    """The constants of the space, which are part of every point."""
    return {key: written.value for key, written in space.items() if isinstance(written, Constant)}


def encode(space: Mapping[str, Range], point: Mapping[str, Any]) -> list[float]:
    """Encode a point as numbers from 0 to 1: on the scale of a range, and one-hot for a choice without order."""
    features: list[float] = []
    for key, written in space.items():
        (low, high), log = ends_of(written)
        if low < high:
            features.append(place_on(point[key], low, high, log=log))
        elif isinstance(written, Choice):
            features += [float(point[key] == value) for value in written.values]
    return features


def ends_of(written: Range) -> tuple[tuple[float, float], bool]:
    """Smallest and largest value of a numeric key, and whether its scale is logarithmic; NaN for another key."""
    match written:
        case IntRange(bounds=(low, high), log=log) | FloatRange(bounds=(low, high), log=log):
            return (float(low), float(high)), log
        case Choice(values=values) if all(type(value) in (int, float) for value in values):
            numbers = [float(value) for value in values]  # type: ignore[arg-type]
            return (min(numbers), max(numbers)), min(numbers) > 0
    return (math.nan, math.nan), False


def features_of(config: StudyConfig, point: Point) -> list[float]:
    """The place of a point in the space of a study, and how its trunk differs, for models.

    The trunk differs, in each key that forks change, by the difference of the values times the trunk's share of the
    epochs: 0 where there is no trunk.
    """
    fork, features = config.search.fork, encode(config.space, point)
    if fork is None:
        return features
    changed = {key: config.space[key] for key in fork.change}
    trunk, last = encode(changed, trunk_of(point)), encode(changed, point)
    epochs = trunk_epochs(point)
    share = epochs / config.trial_at(point).pretraining.epochs if epochs else 0.0
    return [*features, *(share * (before - after) for before, after in zip(trunk, last, strict=True))]


def place_on(value: float, low: float, high: float, *, log: bool) -> float:
    """Where a value lies between the ends of its scale, from 0 to 1."""
    scale = math.log if log else float
    return (scale(value) - scale(low)) / (scale(high) - scale(low))

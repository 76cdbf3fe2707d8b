"""Searched points in the forms that others need: Optuna's, and numbers that models and regressions take."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range

if TYPE_CHECKING:  # commands of a single trial run where Optuna is absent
    from optuna.distributions import BaseDistribution


def distributions(space: Mapping[str, Range]) -> dict[str, "BaseDistribution"]:
    """Optuna's form of the ranges; constants are not searched."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: PLC0415

    found: dict[str, BaseDistribution] = {}
    for key, written in space.items():
        match written:
            case IntRange(bounds=(low, _), log=log, step=step):
                found[key] = IntDistribution(low, written.last, log=log, step=step)
            case FloatRange(bounds=(low, high), log=log):
                found[key] = FloatDistribution(low, high, log=log)
            case Choice(values=values):
                found[key] = CategoricalDistribution(values)
    return found


def constants(space: Mapping[str, Range]) -> dict[str, Any]:
    """The part of every point that is not searched."""
    return {key: written.value for key, written in space.items() if isinstance(written, Constant)}


def encode(space: Mapping[str, Range], point: Mapping[str, Any]) -> list[float]:
    """A point as numbers from 0 to 1: on the range's scale, and one for each value of a choice that has no order."""
    found: list[float] = []
    for key, written in space.items():
        match written:
            case Constant():
                pass
            case IntRange(bounds=(low, high), log=log) | FloatRange(bounds=(low, high), log=log):
                found.append(_place(point[key], low, high, log=log))
            case Choice(values=values) if len(values) > 1 and all(type(value) in (int, float) for value in values):
                numbers = [float(value) for value in values]  # type: ignore[arg-type]
                found.append(_place(point[key], min(numbers), max(numbers), log=min(numbers) > 0))
            case Choice(values=values):
                found += [float(point[key] == value) for value in values]
    return found


def _place(value: float, low: float, high: float, *, log: bool) -> float:
    scale = math.log if log else float
    return (scale(value) - scale(low)) / (scale(high) - scale(low))

"""What differs between trials, each on a scale of its own: the searched keys and the results."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import with_cost


class Scale(NamedTuple):
    """A key or metric, and its value in each of some trials."""

    name: str
    values: tuple[Any, ...]
    """None where a trial has no such key."""
    ends: tuple[float, float]
    """Smallest and largest value; NaN for values without an order."""
    log: bool
    options: tuple[Any, ...] = ()
    """All values of a key without an order."""
    key: bool = False
    """Whether it is a key; else it is a metric."""


def find_scales(config: StudyConfig, trials: Sequence[TrialRecord]) -> list[Scale]:
    """The scales of all searched keys, then those of the objectives and of crop passes.

    Args:
        config: of the study.
        trials: finished ones with all objectives.
    """
    keys = [
        Scale(
            key,
            tuple(record.point.get(key) for record in trials),
            *ends_of(written),
            options=written.values if isinstance(written, Choice) else (),
            key=True,
        )
        for key, written in config.space.items()
        if not isinstance(written, Constant)
    ]
    return [*keys, *(_of_metric(name, trials) for name in with_cost(config.objectives))]


def _of_metric(name: str, trials: Sequence[TrialRecord]) -> Scale:
    values = tuple(record.value(name) for record in trials)
    return Scale(name, values, (min(values, default=0.0), max(values, default=1.0)), log=False)


def ends_of(written: Range) -> tuple[tuple[float, float], bool]:
    """Ends of a numeric key, and whether `encode` takes its logarithm; NaN for another key."""
    match written:
        case IntRange(bounds=(low, high), log=log) | FloatRange(bounds=(low, high), log=log):
            return (float(low), float(high)), log
        case Choice(values=values) if all(type(value) in (int, float) for value in values):
            numbers = [float(value) for value in values]  # type: ignore[arg-type]
            return (min(numbers), max(numbers)), min(numbers) > 0
    return (math.nan, math.nan), False

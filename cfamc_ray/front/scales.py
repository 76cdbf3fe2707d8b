"""What differs between trials, each on a scale of its own: the searched keys and the results."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.ranges import Choice, Constant
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import IN_LINF, Norms
from cfamc_ray.space.encoding import ends_of, place_on
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import applied_part, with_cost

ABSENT = object()
"""Stands for the value of a key that a trial does not have."""


class Scale(NamedTuple):
    """A key or metric, and its value in each of some trials."""

    name: str
    values: tuple[Any, ...]
    """`ABSENT` where a trial has no such key; null is a value."""
    ends: tuple[float, float]
    """Smallest and largest value; NaN for values without an order."""
    log: bool
    options: tuple[Any, ...] = ()
    """All values of a key without an order."""
    key: bool = False
    """Whether it is a key; else it is a metric."""
    norms: Norms = IN_LINF
    """Norms of radii."""

    @property
    def ordered(self) -> bool:
        """Whether its values are numbers."""
        return math.isfinite(self.ends[0])

    def share(self, value: Any) -> float:
        """Where a value lies between the ends, from 0 to 1; in the middle where all are the same."""
        if not self.ordered:
            return (self.options.index(value) + 0.5) / len(self.options)
        low, high = self.ends
        return place_on(value, low, high, log=self.log) if low < high else 0.5

    def value_at(self, share: float) -> float:
        """The number at a share of the way from the low to the high end."""
        low, high = self.ends
        return float(low * (high / low) ** share if self.log else low + share * (high - low))


def find_scales(config: StudyConfig, trials: Sequence[TrialRecord]) -> list[Scale]:
    """The scales of all searched keys, then those of the objectives and of crop passes.

    Args:
        config: of the study.
        trials: finished ones with all objectives.
    """
    applied = [applied_part(config, record.point) for record in trials]
    keys = [
        Scale(
            key,
            tuple(point.get(key, ABSENT) for point in applied),
            *ends_of(written),
            options=written.values if isinstance(written, Choice) else (),
            key=True,
            norms=norms_of(config),
        )
        for key, written in config.space.items()
        if not isinstance(written, Constant)
    ]
    return [*keys, *(_of_metric(name, trials) for name in with_cost(config.objectives))]


def _of_metric(name: str, trials: Sequence[TrialRecord]) -> Scale:
    values = tuple(record.value(name) for record in trials)
    return Scale(name, values, (min(values, default=0.0), max(values, default=1.0)), log=False)

"""The hypervolume of a study over its compute, and the compute by how trials ended."""

from collections.abc import Sequence
from typing import NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import hypervolume, pareto_front
from cfamc_ray.front.front import find_front
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord


class Growth(NamedTuple):
    """The hypervolume after each trial that took compute, in the order of their numbers."""

    trials: tuple[int, ...]
    """Numbers of the trials."""
    crop_passes: tuple[float, ...]
    """Sum over the trials so far."""
    seconds: tuple[float, ...]
    """Training and evaluation time, summed over the trials so far."""
    hypervolume: tuple[float, ...]
    """Of the trials that have finished so far, with the reference of the whole study."""
    before: float = 0.0
    """Hypervolume of the warm-started trials, which are there before the first one."""


def find_growth(config: StudyConfig, records: Sequence[TrialRecord]) -> Growth:
    """How the hypervolume grew with the compute.

    Warm-started trials are there from the start and cost nothing.

    Args:
        config: of the study.
        records: of its trials; running ones count with what they have taken so far.
    """
    reference, directions = find_front(config, records).reference, list(config.objectives.values())
    front: list[list[float]] = []
    volume = passes = seconds = before = 0.0
    rows: list[tuple[int, float, float, float]] = []
    for record in sorted(records, key=lambda record: (not record.source, record.number)):
        values = [*front, *(point.values(config.objectives) for point in record.each_point(config.objectives))]
        on_front = pareto_front(values, directions)
        if record.status == "finished" and on_front[len(front) :].any():
            front = [value for value, on in zip(values, on_front, strict=True) if on]
            volume = hypervolume(front, reference, directions)
        if record.source:
            before = volume
        elif record.rows:
            passes += record.paid("crop_passes")
            seconds += record.paid("train_seconds") + record.paid("eval_seconds")
            rows.append((record.number, passes, seconds, volume))
    trials, spent, taken, volumes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Growth(trials, spent, taken, volumes, before)


class Spent(NamedTuple):
    """Compute of all trials with the same status."""

    status: Status
    trials: int
    train_seconds: float
    eval_seconds: float
    overhead_seconds: float
    """NaN where a trial has not measured it."""
    crop_passes: float
    flops: float


def find_spending(records: Sequence[TrialRecord]) -> list[Spent]:
    """Compute of the trials by status, without warm-started ones.

    Args:
        records: of the trials; one without rows counts as a trial that took nothing.
    """
    statuses: tuple[Status, ...] = ("finished", "stopped", "failed", "infeasible", "running")
    spending = []
    for status in statuses:
        group = [record for record in records if record.status == status and not record.source]
        paid = [record for record in group if record.rows]
        if group:
            spending.append(Spent(status, len(group), *(sum(r.paid(name) for r in paid) for name in Spent._fields[2:])))
    return spending

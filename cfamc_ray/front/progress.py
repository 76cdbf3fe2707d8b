"""How far a study is: its counts, its running trials, and how its hypervolume grew."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_count, format_point
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import settings_of


@dataclass(frozen=True)
class Progress:
    """How far a running study is."""

    total: int
    """Trials of the budget."""
    ended: int
    """Those of them that have ended."""
    finished: int
    """Those of them that have finished."""
    running: int
    others: Mapping[str, int]
    """Number of stopped, failed, refused and warm-started trials; without those that are zero."""
    best: dict[str, float]
    """Best value of each objective over the finished trials; NaN where there is none."""
    front: str
    """Number of points on the front, in words."""
    hypervolume: float
    seconds: float
    """Since this run of the study began."""
    seconds_left: float
    """Estimate; NaN until a trial has ended."""


def progress_of(config: StudyConfig, records: Sequence[TrialRecord], *, seconds: float, ended_before: int) -> Progress:
    """How far a study is.

    Args:
        config: of the study.
        records: of all trials so far.
        seconds: since this run of the study began.
        ended_before: number of trials that the budget pays for and that had ended when this run began.
    """
    front = find_front(config, records)
    number = _numbers(records)
    others = ("stopped", "failed", "refused", "warm-started")
    ended = sum(record.ended and record.counts for record in records)
    better = {"maximize": max, "minimize": min}
    complete = front.members + front.dominated
    return Progress(
        total=config.budget.trials,
        ended=ended,
        finished=number["finished"],
        running=number["running"],
        others={word: number[word] for word in others if number[word]},
        best={
            name: better[direction]((record.value(name) for record in complete), default=math.nan)
            for name, direction in front.objectives.items()
        },
        front=front.size,
        hypervolume=front.hypervolume,
        seconds=seconds,
        seconds_left=_seconds_left(config.budget.trials - ended, ended - ended_before, seconds),
    )


def _seconds_left(todo: int, done: int, seconds: float) -> float:
    return seconds / done * todo if done else math.nan


def counts(config: StudyConfig, records: Sequence[TrialRecord]) -> str:
    """The number of trials of a study by status, in words: those of its budget, and the others."""
    number = _numbers(records)
    paid, others = (
        ", ".join(f"{number[word]} {word}" for word in words if number[word])
        for words in (("finished", "running", "stopped", "failed"), ("warm-started", "refused"))
    )
    return f"{paid or 'no trial yet'} of {config.budget.trials} trials{f'; {others}' if others else ''}"


def _numbers(records: Sequence[TrialRecord]) -> Counter[str]:
    """The number of trials by status; refused and warm-started ones, which the budget does not pay, apart."""
    return Counter(
        record.status if record.counts else "warm-started" if record.source else "refused" for record in records
    )


def running_trials(config: StudyConfig, records: Sequence[TrialRecord], *, most: int = 8) -> list[tuple[str, str]]:
    """Each running trial, with its epoch, its speed in its last epoch and its point.

    Args:
        config: config of the study.
        records: records of all trials so far.
        most: number of trials from which on the others are only counted.
    """
    running = [record for record in records if not record.ended]
    others = len(running) - most
    lines = [(f"trial {record.number}", _where(config, record)) for record in running[:most]]
    return [*lines, *([("others", f"{others} running")] if others > 0 else [])]


def _where(config: StudyConfig, record: TrialRecord) -> str:
    epochs, speed = config.trial_at(record.point).pretraining.epochs, record.value("crop_passes_per_second")
    words = [f"epoch {len(record.rows) + 1} of {epochs}"]
    words += [f"{format_count(speed)} crop passes/s"] if math.isfinite(speed) else []
    words += [format_point(settings_of(config, record), norms_of(config))] if record.point else []
    return "; ".join(words)

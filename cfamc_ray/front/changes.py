"""What changed in a study since it was last resumed."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.store.records import TrialRecord


class Changes(NamedTuple):
    """A study before and after the trials that ended since a moment."""

    trials: int
    """Number of trials that ended since then."""
    hypervolume: tuple[float, float]
    """Before and after, from the reference of the whole study."""
    joined: list[TrialRecord]
    """Points of the front of today that were not on it."""
    left: list[TrialRecord]
    """Points that were on the front and are dominated now."""


def find_changes(config: StudyConfig, records: Sequence[TrialRecord], ended_before: Collection[str]) -> Changes:
    """What the trials changed that had not ended before.

    Args:
        config: of the study.
        records: of its trials.
        ended_before: ids of the trials that had ended before.
    """
    after = find_front(config, records)
    known = [record for record in records if record.trial_id in ended_before]
    before = find_front(config, known, reference=after.reference)
    return Changes(
        trials=sum(record.ended and record.counts for record in records) - sum(record.counts for record in known),
        hypervolume=(before.hypervolume, after.hypervolume),
        joined=_missing_from(before, after),
        left=_missing_from(after, before),
    )


def _missing_from(one: Front, other: Front) -> list[TrialRecord]:
    """The members of the other front that are not members of the first."""
    keys = {record.key for record in one.members}
    return [record for record in other.members if record.key not in keys]

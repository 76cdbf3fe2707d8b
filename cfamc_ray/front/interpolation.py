"""Siblings, trials that share their first epochs, and what interpolations between them add to a front."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from cfamc_ray.config.stages import trunk_epochs, trunk_of
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.front import Front, count_of, find_front
from cfamc_ray.metrics import costs, find_metric
from cfamc_ray.store.interpolations import Interpolation
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2, Column, Table, metric_column, setting_column


def siblings(records: Sequence[TrialRecord], numbers: Collection[int]) -> list[tuple[TrialRecord, TrialRecord]]:
    """Pairs of trials with the same trunk, of which one or both are forks.

    Args:
        records: of a study's trials.
        numbers: trials that may be in a pair, if they are finished.
    """
    finished = [record for record in records if record.status == "finished" and record.number in numbers]
    return [
        (first, second)
        for first, second in combinations(finished, 2)
        if trunk_of(first.point) == trunk_of(second.point) and (trunk_epochs(first.point) or trunk_epochs(second.point))
    ]


def costs_of(first: TrialRecord, second: TrialRecord) -> dict[str, float]:
    """What two siblings cost together, with their common epochs once; of peak memories the larger."""
    common = min(filter(None, (trunk_epochs(record.point) for record in (first, second))))
    found = {}
    for name in costs():
        ours, theirs = first.value(name), second.value(name)
        shared = float(second.rows[common - 1].get(name) or 0.0)
        found[name] = max(ours, theirs) if find_metric(name).unit == "bytes" else ours + theirs - shared
    return found


class ExtendedFront(NamedTuple):
    """The front of a study's trials, and the one of its trials and interpolations together."""

    of_trials: Front
    front: Front
    """Of both; interpolations have the numbers after those of the trials."""
    made: Mapping[int, Interpolation]
    """All interpolations, by these numbers."""

    @property
    def members(self) -> list[tuple[Interpolation, TrialRecord]]:
        """The interpolations on the common front, at each of their operating points on it."""
        return [(self.made[member.number], member) for member in self.front.members if member.number in self.made]

    @property
    def table(self) -> Table:
        """A row for each of the members."""
        objectives = self.front.objectives
        rows = [
            {"first": one.first, "second": one.second, "share": one.share, L2: member.l2}
            | {name: member.value(name) for name in objectives}
            for one, member in self.members
        ]
        at_points = [setting_column(L2)] if any(row[L2] is not None for row in rows) else []
        columns = [*map(Column, ("first", "second", "share")), *at_points, *map(metric_column, objectives)]
        return Table("interpolations", "Interpolations on the front", columns, rows)

    @property
    def sentence(self) -> str:
        """What the interpolations add, in words."""
        number = len({member.number for _, member in self.members})
        return (
            f"{count_of(len(self.made), 'interpolation')} between trials with common first epochs, {number} on the "
            f"front; the hypervolume is {self.front.hypervolume:.4g} with and {self.of_trials.hypervolume:.4g} without "
            "them."
        )


def extend_front(
    config: StudyConfig,
    records: Sequence[TrialRecord],
    interpolations: Sequence[Interpolation],
    *,
    reference: Sequence[float] | None = None,
) -> ExtendedFront:
    """The front without and with interpolations; arguments as in `find_front`."""
    free = 1 + max((record.number for record in records), default=-1)
    made = dict(enumerate(interpolations, free))
    added = [TrialRecord(number, {}, [one.row], "finished") for number, one in made.items()]
    of_both = find_front(config, [*records, *added], reference=reference)
    of_trials = find_front(config, records, reference=of_both.reference)  # a worst cost may be an interpolation's
    return ExtendedFront(of_trials, of_both, made)

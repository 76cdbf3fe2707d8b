"""Siblings, trials that share their first epochs, and what interpolations between them add to a front."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

from cfamc_ray.config.stages import trunk_epochs, trunk_of
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.metrics import costs, find_metric
from cfamc_ray.store.interpolations import Interpolation
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2, Column, Table, metric_column, setting_column


def siblings(records: Sequence[TrialRecord], numbers: Collection[int]) -> list[tuple[TrialRecord, TrialRecord]]:
    """Pairs of trials with the same trunk: a trial and a fork of it, or two forks of it.

    Args:
        records: of a study's trials.
        numbers: trials that may be in a pair, if they are finished.
    """
    finished = [record for record in records if record.status == "finished" and record.number in numbers]
    return [pair for pair in combinations(finished, 2) if trunk_of(pair[0].point) == trunk_of(pair[1].point)]


def costs_of(first: TrialRecord, second: TrialRecord) -> dict[str, float]:
    """What two siblings cost together, with their common epochs once; of peak memories the larger."""
    common = min(filter(None, (trunk_epochs(record.point) for record in (first, second))))
    found = {}
    for name in costs():
        ours, theirs = first.value(name), second.value(name)
        shared = float(second.rows[common - 1].get(name) or 0.0)
        found[name] = max(ours, theirs) if find_metric(name).unit == "bytes" else ours + theirs - shared
    return found


def with_interpolations(
    records: Sequence[TrialRecord], interpolations: Sequence[Interpolation]
) -> tuple[list[TrialRecord], Mapping[int, Interpolation]]:
    """The records of trials and of interpolations, which get the numbers after the trials', and these numbers."""
    free = 1 + max((record.number for record in records), default=-1)
    numbered = dict(enumerate(interpolations, free))
    added = [TrialRecord(number, {}, [one.row], "finished") for number, one in numbered.items()]
    return [*records, *added], numbered


def front_of(
    config: StudyConfig,
    records: Sequence[TrialRecord],
    interpolations: Sequence[Interpolation],
    *,
    reference: Sequence[float] | None = None,
) -> Front:
    """The front of trials and interpolations together; `reference` as in `find_front`."""
    return find_front(config, with_interpolations(records, interpolations)[0], reference=reference)


def interpolations_table(
    config: StudyConfig, records: Sequence[TrialRecord], interpolations: Sequence[Interpolation]
) -> Table:
    """Their operating points on the common front; those of the other interpolations have no row."""
    numbered = with_interpolations(records, interpolations)[1]
    members = [member for member in front_of(config, records, interpolations).members if member.number in numbered]
    rows = []
    for member in members:
        one = numbered[member.number]
        values = {name: member.value(name) for name in config.objectives}
        rows.append({"first": one.first, "second": one.second, "share": one.share, L2: member.l2, **values})
    at_points = [setting_column(L2)] if any(member.l2 is not None for member in members) else []
    columns = [*map(Column, ("first", "second", "share")), *at_points, *map(metric_column, config.objectives)]
    return Table("interpolations", "Interpolations on the front", columns, rows)


def interpolations_sentence(
    config: StudyConfig, records: Sequence[TrialRecord], interpolations: Sequence[Interpolation]
) -> str:
    """What they add, in words."""
    before, after = find_front(config, records), front_of(config, records, interpolations)
    numbers = {member.number for member in after.members} - {record.number for record in records}
    count = f"{len(interpolations)} interpolation{'' if len(interpolations) == 1 else 's'}"
    return (
        f"{count} between trials with common first epochs, {len(numbers)} on the front; the hypervolume is "
        f"{after.hypervolume:.4g} with and {before.hypervolume:.4g} without them."
    )

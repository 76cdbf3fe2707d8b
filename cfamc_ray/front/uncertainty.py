"""How certain the points of a front are: intervals of accuracies, and points that noise cannot tell apart.

The intervals come from the number of images alone; how much another seed changes a trial, `confirm` measures.
"""

import math
from collections.abc import Iterable, Sequence

from cfamc_ray.front.front import Front
from cfamc_ray.intervals import wilson_interval
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord

Interval = tuple[float, float]
UNKNOWN: Interval = (math.nan, math.nan)


def interval_of(record: TrialRecord, metric: str) -> Interval:
    """95 % Wilson interval of a metric that is a fraction of validation images; NaN for others and where missing."""
    value, column = record.value(metric), find_metric(metric).images
    images = record.rows[-1].get(column) if record.rows and column else None
    return wilson_interval(round(value * images), images) if images and math.isfinite(value) else UNKNOWN


def intervals_of(records: Sequence[TrialRecord], metric: str) -> list[Interval]:
    """`interval_of` each record; empty if no record has an interval."""
    intervals = [interval_of(record, metric) for record in records]
    return intervals if any(math.isfinite(low) for low, _ in intervals) else []


def within_noise(one: TrialRecord, other: TrialRecord, objectives: Iterable[str]) -> bool:
    """Whether in no objective the 95 % intervals of two points are disjoint.

    A cost is known exactly, so different costs tell points apart; a result without an interval tells nothing. All
    points are measured on the same images, where smaller differences than this rule's are significant: it is
    conservative, as it takes too many points for equal rather than too few.
    """
    return not any(_disjoint(_range(one, name), _range(other, name)) for name in objectives)


def _range(record: TrialRecord, metric: str) -> Interval:
    exact = find_metric(metric).role == "cost"
    return (record.value(metric),) * 2 if exact else interval_of(record, metric)


def _disjoint(one: Interval, other: Interval) -> bool:
    return one[1] < other[0] or other[1] < one[0]


def noise_groups(front: Front) -> list[list[TrialRecord]]:
    """Neighbours along the front in groups, within which noise cannot tell any two points apart.

    Along the first objective a group grows as long as the next point is within noise of all its points. So with two
    objectives no partition has fewer groups, but the last point of one group and the first of the next may be within
    noise of each other.

    Args:
        front: of a study.

    Returns:
        The members of the front in their order, by group; no groups where no point has an interval.
    """
    if not any(intervals_of(front.members, name) for name in front.objectives):
        return []
    groups: list[list[TrialRecord]] = []
    for member in front.members:
        if groups and all(within_noise(member, other, front.objectives) for other in groups[-1]):
            groups[-1].append(member)
        else:
            groups.append([member])
    return groups

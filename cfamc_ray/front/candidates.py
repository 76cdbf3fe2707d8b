"""The points of a front to train again with fresh seeds: its members and what is near it, up to a number."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import farthest_first, signs
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord

Array = npt.NDArray[np.float64]


class Candidates(NamedTuple):
    """Records at operating points: members of the front in its order, then the others by number."""

    chosen: list[TrialRecord]
    """Those to confirm."""
    left_out: list[TrialRecord]
    """Those beyond the limit."""


def without_seed(record: TrialRecord) -> Hashable:
    """Searched keys and their values except the seed; trials that agree in them share the encoders of fresh seeds."""
    return frozenset((key, value) for key, value in record.point.items() if key != "seed")


def candidates(config: StudyConfig, records: Sequence[TrialRecord], *, tolerance: float, points: int) -> Candidates:
    """Choose operating points of the front and near it.

    A point is near the front if no other dominates it once all its objectives are improved by a share of the front's
    range (additive ε-dominance). Of several trials that differ at most in their seed, each operating point is taken
    once. Beyond the limit, the ends of the front come first (the best in each objective), then its other members, then
    points near it, each time the one farthest from those before it.

    Args:
        config: of the study.
        records: of its trials, by number.
        tolerance: this share.
        points: largest number of points to choose.
    """
    front = find_front(config, records)
    complete = front.members + front.dominated
    if not complete:
        return Candidates([], [])
    values_NK = np.array([record.values(config.objectives) for record in complete]) * signs(config.objectives.values())
    front_MK = values_NK[: len(front.members)]
    span_K = np.ptp(front_MK, axis=0)
    span_K = np.where(span_K > 0, span_K, np.ptp(values_NK, axis=0))
    improved_N1K = (values_NK + tolerance * span_K)[:, None]
    dominated_NM = (front_MK >= improved_N1K).all(-1) & (front_MK > improved_N1K).any(-1)
    rows: dict[Hashable, int] = {}
    for row in np.flatnonzero(~dominated_NM.any(1)).tolist():
        rows.setdefault((without_seed(complete[row]), complete[row].l2), row)
    near = list(rows.values())
    scaled_NK = values_NK[near] / np.where(span_K > 0, span_K, 1.0)
    order = _ends_first(scaled_NK, sum(row < len(front.members) for row in near))
    first, rest = sorted(order[:points]), sorted(order[points:])
    return Candidates([complete[near[place]] for place in first], [complete[near[place]] for place in rest])


def _ends_first(scaled_NK: Array, members: int) -> list[int]:
    """Rows of which the first ones are members of the front: its ends, the other members by spread, then the others."""
    front_MK = scaled_NK[:members]
    ends = list(dict.fromkeys(front_MK.argmax(axis=0).tolist()))
    whole = [*ends, *farthest_first(front_MK, ends)]
    return [*whole, *farthest_first(scaled_NK, whole)]

"""What changed since a study was resumed."""

import pytest
from made_by_hand import record, study

from cfamc_ray.front.changes import find_changes

TRIALS = [
    record(0, clean_accuracy=0.5, robust_accuracy=0.4),
    record(1, clean_accuracy=0.8, robust_accuracy=0.1),
    record(2, clean_accuracy=0.6, robust_accuracy=0.5),
    record(3, clean_accuracy=0.1, robust_accuracy=0.1, status="stopped"),
    record(4, clean_accuracy=0.9, robust_accuracy=0.9, status="running"),
]


def test_new_points_those_they_dominate_and_the_volume_they_add() -> None:
    found = find_changes(study(), TRIALS, ["trial_00000", "trial_00001"])
    assert found.trials == 2, "one finished and one stopped; another one runs"
    assert found.hypervolume == pytest.approx((0.5 * 0.4 + 0.3 * 0.1, 0.6 * 0.5 + 0.2 * 0.1))
    assert [one.number for one in found.joined] == [2]
    assert [one.number for one in found.left] == [0]


def test_nothing_changed_where_all_had_ended_before() -> None:
    found = find_changes(study(), TRIALS, [f"trial_0000{number}" for number in range(4)])
    assert (found.trials, found.joined, found.left) == (0, [], [])
    assert found.hypervolume[0] == found.hypervolume[1]

"""Fronts of operating points: one trial may be on them several times."""

from collections.abc import Sequence

import made_by_hand
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import record, study

from cfamc_ray.front.dominance import best_first, best_groups_first
from cfamc_ray.front.front import find_front, most_useful
from cfamc_ray.front.growth import find_growth
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord

Curve = Sequence[tuple[float, float]]
BOTH = ("clean_accuracy", "robust_accuracy")


def curve(number: int, points: Curve, *, status: Status = "finished", **metrics: float) -> TrialRecord:
    """A trial with clean and robust accuracies at L2 strengths of 1, 2, …."""
    numbered = [(float(l2), *point) for l2, point in enumerate(points, start=1)]
    return made_by_hand.curve(number, *numbered, status=status, **metrics)


def keys(records: Sequence[TrialRecord]) -> list[tuple[int, float | None]]:
    return [(one.number, one.l2) for one in records]


def test_a_record_at_an_operating_point_has_its_accuracies_and_the_other_metrics_of_its_trial() -> None:
    trial = curve(3, [(0.5, 0.1), (0.4, 0.3)], flops=7)
    assert trial.values([*BOTH, "flops"]) == [0.4, 0.3, 7]
    weak, strong = trial.each_point(BOTH)
    assert [weak.values([*BOTH, "flops"]), strong.values([*BOTH, "flops"])] == [[0.5, 0.1, 7], [0.4, 0.3, 7]]
    assert [weak.l2, strong.l2, trial.l2] == [1, 2, None]
    assert strong.each_point(BOTH) == [strong]
    assert trial.each_point(["flops"]) == [trial]
    assert record(0, clean_accuracy=0.5).each_point(BOTH) == [record(0, clean_accuracy=0.5)]


def test_the_front_is_over_the_operating_points_of_finished_trials() -> None:
    trials = [
        curve(0, [(0.5, 0.1), (0.4, 0.3), (0.3, 0.3)]),
        curve(1, [(0.45, 0.2), (0.45, 0.2)]),
        curve(2, [(0.9, 0.9)], status="stopped"),
        record(3, clean_accuracy=0.2, robust_accuracy=0.35),
    ]
    front = find_front(study(), trials)
    assert keys(front.members) == [(0, 1), (1, 1), (0, 2), (3, None)]
    assert keys(front.dominated) == [(0, 3)]
    assert front.hypervolume == pytest.approx(0.5 * 0.1 + 0.45 * 0.1 + 0.4 * 0.1 + 0.2 * 0.05)


def test_objectives_that_are_the_same_at_all_operating_points_have_one_point_for_a_trial() -> None:
    config = study(objectives={"flops": "minimize"})
    assert keys(find_front(config, [curve(0, [(0.5, 0.1), (0.4, 0.3)], flops=2)]).members) == [(0, None)]


def test_growth_counts_every_operating_point_when_its_trial_ends() -> None:
    trials = [
        curve(0, [(0.5, 0.1), (0.4, 0.3)], crop_passes=10, train_seconds=1, eval_seconds=1),
        curve(1, [(0.45, 0.2), (0.1, 0.1)], crop_passes=10, train_seconds=1, eval_seconds=1),
    ]
    first = 0.4 * 0.3 + 0.1 * 0.1
    assert find_growth(study(), trials).hypervolume == pytest.approx((first, first + 0.05 * 0.1))


@pytest.mark.parametrize(
    ("others", "l2"),
    [
        ([], 2),  # 0.4 * 0.3 against 0.5 * 0.1
        ([(0.4, 0.3)], 1),
        ([(0.45, 0.25)], 2),
        ([(0.5, 0.25)], 2),
        ([(0.5, 0.3)], None),
    ],
)
def test_the_most_useful_operating_point_adds_most_to_the_front_of_the_others(others: Curve, l2: float | None) -> None:
    known = [record(n, clean_accuracy=clean, robust_accuracy=robust) for n, (clean, robust) in enumerate(others)]
    found = most_useful(study(), curve(9, [(0.5, 0.1), (0.4, 0.3)]), known)
    assert (found.number, found.l2) == (9, l2)


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4)


@given(groups=st.lists(POINTS, min_size=1, max_size=5))
def test_groups_are_ordered_by_the_best_of_their_points(groups: list[list[tuple[int, int]]]) -> None:
    directions = ["maximize", "maximize"]
    order = best_groups_first(groups, directions)
    assert sorted(order) == list(range(len(groups)))
    flat = [(owner, point) for owner, points in enumerate(groups) for point in points]
    first = best_first(np.array([point for _, point in flat], dtype=float), directions)[0]
    assert order[0] == flat[first][0]
    single = [[points[0]] for points in groups]
    assert best_groups_first(single, directions) == best_first(np.array(single, dtype=float)[:, 0], directions)

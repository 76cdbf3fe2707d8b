"""Which operating points of a study are confirmed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import operating_point, record, study

from cfamc_ray.front.candidates import candidates
from cfamc_ray.front.dominance import pareto_front
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord

COST = study(objectives={"clean_accuracy": "maximize", "crop_passes": "minimize"})
CURVES = study()
"""Whose objectives differ between operating points."""

curves = st.lists(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=4), min_size=1, max_size=6
)


def curve(number: int, points: Sequence[tuple[float, float]]) -> TrialRecord:
    """A trial with clean and robust accuracies in percent."""
    rows = [operating_point(10.0**place, clean / 100, robust / 100) for place, (clean, robust) in enumerate(points)]
    return record(number, operating_points=rows)


@pytest.mark.parametrize(("tolerance", "numbers"), [(0.1, [1, 0]), (0.5, [1, 0, 2]), (1.0, [1, 0, 2, 3])])
def test_they_are_the_front_and_what_no_trial_dominates_once_it_is_improved(
    tolerance: float, numbers: list[int]
) -> None:
    values = [(0.4, 100), (0.5, 200), (0.38, 110), (0.31, 200)]
    trials = [record(n, clean_accuracy=clean, crop_passes=passes) for n, (clean, passes) in enumerate(values)]
    chosen, left_out = candidates(COST, trials, tolerance=tolerance, points=12)
    assert [one.number for one in chosen] == numbers
    assert left_out == []


def test_a_trial_is_taken_at_each_operating_point_near_the_front() -> None:
    trials = [curve(0, [(50, 10), (45, 20), (30, 21)]), curve(1, [(48, 5), (44, 20), (20, 30)])]
    chosen, _ = candidates(CURVES, trials, tolerance=0.05, points=12)
    assert [one.key for one in chosen] == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1)]
    assert [one.l2 for one in chosen] == [1.0, 10.0, 100.0, 100.0, 10.0]


def test_operating_points_of_equal_trials_are_taken_once() -> None:
    first, seeded = curve(0, [(50, 10), (40, 20)]), curve(2, [(51, 9), (40, 20)])
    equal = replace(first, number=1)
    assert [one.key for one in candidates(CURVES, [first, equal], tolerance=0, points=9).chosen] == [(0, 0), (0, 1)]
    seeded = replace(seeded, point={**first.point, "seed": 7})
    assert [one.key for one in candidates(CURVES, [first, seeded], tolerance=0, points=9).chosen] == [(2, 0), (0, 1)]


@given(curves, st.floats(0, 1))
def test_near_is_what_additive_epsilon_dominance_says(points: list[list[tuple[int, int]]], tolerance: float) -> None:
    trials = [curve(number, each) for number, each in enumerate(points)]
    front = find_front(CURVES, trials)
    complete = front.members + front.dominated
    values = np.array([one.values(CURVES.objectives) for one in complete])
    span = np.ptp([one.values(CURVES.objectives) for one in front.members], axis=0)
    span = np.where(span > 0, span, np.ptp(values, axis=0))

    def is_near(place: int) -> bool:
        others = np.delete(values, place, axis=0)
        return bool(pareto_front(np.vstack([values[place] + tolerance * span, others]), ["maximize"] * 2)[0])

    chosen, left_out = candidates(CURVES, trials, tolerance=tolerance, points=100)
    assert left_out == []
    assert [one.key for one in chosen] == [one.key for place, one in enumerate(complete) if is_near(place)]
    assert [one.key for one in chosen[: len(front.members)]] == [one.key for one in front.members]


@given(curves, st.floats(0, 1), st.integers(1, 12))
def test_a_limit_keeps_the_ends_of_the_front_then_the_front_then_what_is_near(
    points: list[list[tuple[int, int]]], tolerance: float, limit: int
) -> None:
    trials = [curve(number, each) for number, each in enumerate(points)]
    front = find_front(CURVES, trials).members
    every = candidates(CURVES, trials, tolerance=tolerance, points=100).chosen
    chosen, left_out = candidates(CURVES, trials, tolerance=tolerance, points=limit)
    assert len(chosen) == min(limit, len(every))
    assert sorted(one.key for one in chosen + left_out) == sorted(one.key for one in every)
    assert chosen == [one for one in every if one in chosen]
    assert sum(one in front for one in chosen) == min(limit, len(front))
    if limit > 1:
        values, best = ([one.values(CURVES.objectives) for one in some] for some in (chosen, front))
        assert np.max(values, axis=0).tolist() == np.max(best, axis=0).tolist()


def test_a_limit_keeps_the_points_spread() -> None:
    trials = [curve(number, [(10 + 2 * number, 30 - 2 * number)]) for number in range(11)]
    trials.append(curve(11, [(29.5, 10)]))
    trials.append(curve(12, [(19.8, 19.8)]))
    chosen = [candidates(CURVES, trials, tolerance=0.05, points=limit).chosen for limit in (1, 2, 3, 5, 12)]
    assert [[one.number for one in some] for some in chosen[:3]] == [[10], [10, 0], [10, 5, 0]]
    assert {one.number for one in chosen[3]} in ({0, 2, 5, 7, 10}, {0, 2, 5, 8, 10}, {0, 3, 5, 7, 10}, {0, 3, 5, 8, 10})
    assert [one.number for one in chosen[4]] == [*range(10, -1, -1), 11]


def test_a_study_without_a_finished_trial_has_none() -> None:
    assert candidates(CURVES, [record(0, status="failed")], tolerance=0.1, points=3) == ([], [])

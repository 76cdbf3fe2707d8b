import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfamc_ray.front.dominance import best_first, farthest_first, hypervolume, pareto_front

Point = tuple[float, ...]
Case = tuple[list[Point], list[str]]

MAX, MIN = "maximize", "minimize"


@st.composite
def cases(draw: st.DrawFn, *, finite: bool = False) -> Case:
    """Points on a coarse grid, so that ties and duplicates are frequent; some values may not be finite."""
    directions = draw(st.lists(st.sampled_from([MAX, MIN]), min_size=1, max_size=4))
    value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0] + ([] if finite else [math.nan, math.inf, -math.inf]))
    return draw(st.lists(st.tuples(*[value] * len(directions)), max_size=10)), directions


def dominates(one: Point, other: Point, directions: list[str]) -> bool:
    """By the definition."""
    gains = [(a - b) * (1 if d == MAX else -1) for a, b, d in zip(one, other, directions, strict=True)]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


@given(cases())
def test_the_front_is_what_no_finite_point_dominates(case: Case) -> None:
    points, directions = case
    finite = [point for point in points if np.isfinite(point).all()]
    expected = [
        point in finite and not any(dominates(other, point, directions) for other in finite) for point in points
    ]
    mask = pareto_front(points, directions)
    assert mask.tolist() == expected
    assert mask.dtype == np.bool_


@given(cases())
def test_there_is_a_front_iff_there_is_a_finite_point(case: Case) -> None:
    points, directions = case
    finite = [point for point in points if np.isfinite(point).all()]
    assert bool(pareto_front(points, directions).any()) == bool(finite)


@given(cases(finite=True))
def test_the_order_of_points_does_not_matter(case: Case) -> None:
    points, directions = case
    order = np.random.default_rng(0).permutation(len(points))
    shuffled = [points[place] for place in order]
    assert pareto_front(shuffled, directions).tolist() == pareto_front(points, directions)[order].tolist()


@given(cases(finite=True))
def test_negating_a_maximised_objective_makes_it_a_minimised_one(case: Case) -> None:
    points, directions = case
    flipped = [tuple(-value for value in point) for point in points]
    opposite = [MIN if direction == MAX else MAX for direction in directions]
    assert pareto_front(flipped, opposite).tolist() == pareto_front(points, directions).tolist()


def test_duplicates_of_a_front_point_are_all_on_the_front() -> None:
    points = [(0.5, 0.5), (0.5, 0.5), (0.4, 0.5), (0.9, 0.1), (0.9, 0.1)]
    assert pareto_front(points, [MAX, MAX]).tolist() == [True, True, False, True, True]


def test_one_objective_has_the_best_values_for_front() -> None:
    assert pareto_front([[3.0], [1.0], [3.0]], [MAX]).tolist() == [True, False, True]
    assert pareto_front([[3.0], [1.0], [3.0]], [MIN]).tolist() == [False, True, False]


def test_no_points_have_no_front() -> None:
    assert pareto_front([], [MAX, MIN]).shape == (0,)
    assert pareto_front(np.empty((0, 3)), [MAX] * 3).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_that_is_not_finite_is_never_on_the_front_and_dominates_nothing(value: float) -> None:
    assert pareto_front([(value, 1.0), (0.5, 0.5)], [MAX, MAX]).tolist() == [False, True]
    assert not pareto_front([(value, 1.0)], [MIN, MAX]).any()


@pytest.mark.parametrize("direction", ["max", "MAXIMIZE", ""])
def test_an_unknown_direction_is_refused(direction: str) -> None:
    with pytest.raises(ValueError, match="must be maximize or minimize"):
        pareto_front([(1.0, 1.0)], [MAX, direction])
    with pytest.raises(ValueError, match="must be maximize or minimize"):
        hypervolume([(1.0, 1.0)], [0, 0], [MAX, direction])


def test_values_of_another_number_of_objectives_are_refused() -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        pareto_front([[1, 2], [3, 4], [5, 6]], [MAX] * 3)


def test_a_reference_of_another_number_of_objectives_is_refused() -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        hypervolume([[1.0, 1.0]], [0, 0, 0, 0], [MAX, MAX])


def test_one_point_dominates_a_box() -> None:
    assert hypervolume([(0.5, 0.25)], [0, 0], [MAX, MAX]) == pytest.approx(0.125)
    assert hypervolume([(0.5, 3.0)], [0.1, 10], [MAX, MIN]) == pytest.approx(0.4 * 7)
    assert hypervolume([(2, 3, 4)], [0, 0, 0], [MAX] * 3) == pytest.approx(24)
    assert hypervolume([[0.7]], [0.2], [MAX]) == pytest.approx(0.5)
    assert hypervolume([[0.7], [0.3]], [1.0], [MIN]) == pytest.approx(0.7)


@given(*[st.floats(0.01, 1)] * 4)
def test_two_points_dominate_their_boxes_less_what_both_share(a: float, b: float, c: float, d: float) -> None:
    expected = a * b + c * d - min(a, c) * min(b, d)
    assert hypervolume([(a, b), (c, d)], [0, 0], [MAX, MAX]) == pytest.approx(expected)
    assert hypervolume([(1 - a, b), (1 - c, d)], [1, 0], [MIN, MAX]) == pytest.approx(expected)


@given(cases(finite=True))
def test_the_volume_is_the_number_of_dominated_cells_of_the_grid(case: Case) -> None:
    points, directions = case
    k = len(directions)
    worst = [0.0 if direction == MAX else 1.0 for direction in directions]
    height = np.abs(np.array(points).reshape(-1, k) - worst)  # above the reference
    centres = np.stack(np.meshgrid(*[np.arange(4) / 4 + 0.125] * k, indexing="ij"), axis=-1).reshape(-1, k)
    dominated = np.any(np.all(centres[:, None] < height[None], axis=2), axis=1)
    assert hypervolume(points, worst, directions) == pytest.approx(dominated.mean())


@given(cases())
def test_a_further_point_never_takes_volume_away(case: Case) -> None:
    points, directions = case
    reference = [0.5] * len(directions)
    volumes = [hypervolume(points[:count], reference, directions) for count in range(len(points) + 1)]
    assert volumes == sorted(volumes)
    assert volumes[0] == 0.0


@given(cases(finite=True))
def test_only_the_front_has_volume(case: Case) -> None:
    points, directions = case
    reference = [-0.1 if direction == MAX else 1.1 for direction in directions]
    front = [point for point, on in zip(points, pareto_front(points, directions), strict=True) if on]
    assert hypervolume(front, reference, directions) == pytest.approx(hypervolume(points, reference, directions))


@pytest.mark.parametrize(
    "point", [(0.2, 0.9), (0.9, 0.2), (0.1, 0.1), (0.3, 0.9), (math.nan, 0.9), (math.inf, 0.9)], ids=str
)
def test_a_point_outside_the_reference_adds_nothing(point: Point) -> None:
    inside = (0.5, 0.5)
    assert hypervolume([point], [0.3, 0.3], [MAX, MAX]) == 0.0
    assert hypervolume([inside, point], [0.3, 0.3], [MAX, MAX]) == pytest.approx(0.04)


@given(cases())
def test_the_best_come_first_and_nothing_comes_after_what_it_dominates(case: Case) -> None:
    points, directions = case
    order = best_first(points, directions)
    assert sorted(order) == list(range(len(points)))
    finite = [bool(np.isfinite(points[row]).all()) for row in order]
    assert finite == sorted(finite, reverse=True)
    ranked = [points[row] for row, known in zip(order, finite, strict=True) if known]
    for place, point in enumerate(ranked):
        assert not any(dominates(later, point, directions) for later in ranked[place:])
    front = sum(pareto_front(points, directions))
    assert pareto_front([points[row] for row in order], directions).tolist()[:front] == [True] * front


def test_within_a_rank_the_one_nearest_to_the_ideal_point_comes_first_then_the_farthest() -> None:
    points = [(0.0, 1.0), (0.05, 0.99), (0.6, 0.7), (1.0, 0.0), (0.1, 0.1)]
    assert best_first(points, [MAX, MAX]) == [2, 3, 0, 1, 4]


def test_each_row_is_the_farthest_from_those_before_it() -> None:
    places = np.array([[0.0], [0.1], [1.0], [0.6], [0.5]])
    assert list(farthest_first(places, [0])) == [2, 4, 1, 3]
    assert list(farthest_first(places, [2, 0])) == [4, 1, 3]
    assert list(farthest_first(places, [4, 3, 2, 1, 0])) == []
    assert list(farthest_first(np.zeros((3, 2)), [1])) == [0, 2]

"""Labels of points keep clear of each other and of the edge, wherever there is room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfamc_ray.figures.chart import Axis, Line, Panel, Points
from cfamc_ray.figures.labels import SIDES, label_sides


def sides(x: list[float], y: list[float], labels: list[str], *, log: bool = False) -> list[str]:
    mark = Points("points", x, y, labels=labels)
    frame = Line("", [1e-3 if log else 0.0, 1.0], [1e-3 if log else 0.0, 1.0])
    panel = Panel(Axis("x", log=log), Axis("y"), [frame, mark])
    return [" ".join(side) for side in label_sides(panel, mark)]


def test_where_nothing_is_in_the_way_a_label_is_above_to_the_right() -> None:
    assert sides([0.2, 0.7], [0.2, 0.7], ["first", "second"]) == ["top right", "top right"]


def test_one_at_the_right_edge_goes_to_the_left() -> None:
    assert sides([0.99], [0.5], ["a long name"]) == ["top left"]


def test_neighbours_part() -> None:
    first, second = sides([0.5, 0.55], [0.5, 0.5], ["emp-ssl-patches", "simclr-patches"])
    assert first != second


def test_a_logarithmic_axis_is_measured_by_its_logarithm() -> None:
    places = ([0.4, 0.5], [0.5, 0.52], ["abcdefgh", "abcdefgh"])
    near, far = sides(*places, log=True), sides([0.001, 0.5], *places[1:], log=True)
    assert near[0] != near[1]
    assert far == ["top right", "top right"]


def test_what_has_no_label_has_no_side() -> None:
    mark = Points("points", [1.0], [1.0])
    assert label_sides(Panel(Axis("x"), Axis("y"), [mark]), mark) == []


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_points_in_one_place_have_different_sides_while_there_are_some(value: float) -> None:
    mark = Points("points", [value] * 4, [value] * 4, labels=["label"] * 4)
    assert sorted(label_sides(Panel(Axis("x"), Axis("y"), [mark]), mark)) == sorted(SIDES)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.text(max_size=30)), min_size=1, max_size=20))
def test_any_points_have_one_side_each(places: list[tuple[float, float, str]]) -> None:
    x, y, labels = (list(column) for column in zip(*places, strict=True))
    assert len(sides(x, y, labels)) == len(places)

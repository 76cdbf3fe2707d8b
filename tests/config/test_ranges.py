import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range, dump_range, parse_range
from cfamc_ray.config.types import parse_fraction
from cfamc_ray.config.yaml12 import dump_yaml, parse_yaml
from cfamc_ray.space.search_space import draw

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(-1e30, 1e30),
    st.text("abcxyz-_ ", max_size=8),
    st.none(),
)


def source(seed: int = 0) -> random.Random:
    return random.Random(seed)  # noqa: S311


@st.composite
def int_ranges(draw_: st.DrawFn) -> Range:
    log = draw_(st.booleans())
    low = draw_(st.integers(1 if log else -50, 50))
    step = 1 if log else draw_(st.integers(1, 7))
    return parse_range({"int": [low, low + draw_(st.integers(1, 100))], "log": log, "step": step})


@st.composite
def float_ranges(draw_: st.DrawFn) -> Range:
    log = draw_(st.booleans())
    bounds = st.floats(1e-30, 1e30) if log else st.floats(-1e30, 1e30)
    return parse_range({"float": sorted(draw_(st.lists(bounds, min_size=2, max_size=2, unique=True))), "log": log})


RANGES = st.one_of(
    int_ranges(),
    float_ranges(),
    st.lists(SCALARS, min_size=1, max_size=5, unique=True).map(lambda values: parse_range({"choice": values})),
    SCALARS.map(parse_range),
)


@given(RANGES)
def test_a_range_survives_being_written_and_read(written: Range) -> None:
    again = parse_range(parse_yaml(dump_yaml(dump_range(written))))
    assert repr(again) == repr(written)  # 1, 1.0 and True are equal, but not written alike


@given(RANGES, st.integers(0, 2**32))
def test_a_draw_is_a_value_of_the_range(written: Range, seed: int) -> None:
    value = draw(written, source(seed))
    match written:
        case IntRange(bounds=(low, high), step=step):
            assert isinstance(value, int)
            assert low <= value <= high
            assert (value - low) % step == 0
        case FloatRange(bounds=(low, high)):
            assert isinstance(value, float)
            assert low <= value <= high
        case Choice(values=values):
            assert value in values
        case Constant(value=only):
            assert value == only


@given(int_ranges(), st.integers(0, 2**32))
def test_no_draw_lies_outside_the_edges(written: Range, seed: int) -> None:
    low, high = written.edges()
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert low <= draw(written, source(seed)) <= high  # type: ignore[operator]


@given(RANGES, st.integers(0, 2**32))
def test_a_range_contains_its_draws_and_its_edges(written: Range, seed: int) -> None:
    assert all(written.contains(value) for value in (draw(written, source(seed)), *written.edges()))


@given(int_ranges(), st.integers(-100, 200))
def test_whole_numbers_off_the_steps_or_the_bounds_are_not_contained(written: Range, value: int) -> None:
    low, high = written.bounds  # type: ignore[union-attr]
    assert written.contains(value) is (low <= value <= high and (value - low) % written.step == 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ({"int": [1, 9], "step": 3}, [1, 4, 7], [0, 2, 9, 10, 4.0, True, "4", None]),
        ({"float": [0, 1]}, [0, 0.5, 1, 1.0], [-1e-9, 1.001, float("nan"), True, "0.5", None]),
        ({"choice": ["group", 2, None]}, ["group", 2, None], ["batch", 3, "2", False]),
        ({"choice": ["8/255"]}, [8 / 255], ["8/255", 8 / 256]),
        (3, [3], [4, "3", None]),
        (None, [None], [0, False, "None"]),
    ],
    ids=str,
)
def test_what_a_range_contains_has_its_kind_and_lies_within(
    written: object, inside: list[object], outside: list[object]
) -> None:
    found = parse_range(written)
    assert [value for value in inside if not found.contains(value)] == []
    assert [value for value in outside if found.contains(value)] == []


def test_every_value_on_the_step_grid_is_drawn() -> None:
    written = parse_range({"int": [1, 11], "step": 4})
    assert {draw(written, source(seed)) for seed in range(100)} == {1, 5, 9}
    assert written.edges() == (1, 9)


@pytest.mark.parametrize(
    ("written", "share_up_to_10"),
    [
        ({"int": [1, 100], "log": True}, 0.574),  # log(10.5 / 0.5) / log(100.5 / 0.5): each whole number owns ±1/2
        ({"int": [1, 100]}, 0.1),
        ({"float": [1, 100], "log": True}, 0.5),
        ({"float": [1, 100]}, 9 / 99),
    ],
)
def test_draws_are_even_on_the_range_s_own_scale(written: object, share_up_to_10: float) -> None:
    found, drawn = parse_range(written), source()
    draws = [draw(found, drawn) for _ in range(4000)]
    assert sum(value <= 10 for value in draws) / 4000 == pytest.approx(share_up_to_10, abs=0.03)  # type: ignore[operator]


def test_a_log_range_of_whole_numbers_reaches_both_bounds() -> None:
    written = parse_range({"int": [1, 3], "log": True})
    assert {draw(written, source(seed)) for seed in range(100)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("text", "number"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("1e-4", 1e-4), ("0.5/2", 0.25), ("3", 3.0), ("-1/4", -0.25)],
)
def test_fractions_are_numbers(text: str, number: float) -> None:
    assert parse_fraction(text) == pytest.approx(number, rel=1e-15)


@pytest.mark.parametrize("text", ["", "/", "8/", "/255", "1/0", "eight", "nan", "inf", "8/255ths", "1+1"])
def test_what_is_no_number_and_no_fraction_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a number such as 1\.5 or a fraction such as 8/255"):
        parse_fraction(text)


def test_a_fraction_of_a_fraction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a number such as 1\.5 or a fraction such as 8/255"):
        parse_fraction("1/2/3")


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match="a number"):
        parse_fraction("1e400")


def test_fractions_are_read_in_bounds_choices_and_constants() -> None:
    assert parse_range({"float": ["1/255", "16/255"]}).edges() == (1 / 255, 16 / 255)
    assert parse_range({"choice": ["4/255", "8/255", "free"]}).edges() == (4 / 255, 8 / 255, "free")
    assert parse_range("8/255").edges() == parse_range({"constant": "8/255"}).edges() == (8 / 255,)


def test_exponents_without_a_point_are_numbers_in_choices_and_constants() -> None:
    assert parse_range(parse_yaml("{choice: [1e-4, 1e-3]}")).edges() == (1e-4, 1e-3)
    assert parse_range(parse_yaml("1e-4")).edges() == (1e-4,)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"int": [4, 2]}, "reversed: 4 must be smaller than 2"),
        ({"int": [4, 4]}, "empty or reversed"),
        ({"float": [0.5, 0.1]}, "reversed: 0.5 must be smaller than 0.1"),
        ({"float": [1, 1]}, "empty or reversed"),
        ({"int": [0, 4], "log": True}, "positive lower bound on a log scale, not 0"),
        ({"float": [-1, 4], "log": True}, "positive lower bound on a log scale, not -1"),
        ({"int": [1, 9], "log": True, "step": 2}, "step must be 1 on a log scale, not 2"),
        ({"int": [1, 9], "step": 0}, "greater than or equal to 1"),
        ({"int": [1.5, 9]}, "valid integer"),
        ({"int": [True, 9]}, "valid integer"),
        ({"int": ["1", 9]}, "valid integer"),
        ({"float": [0, float("inf")]}, "finite"),
        ({"float": [float("nan"), 1]}, "finite"),
        ({"float": [0, True]}, "valid number"),
        ({"choice": []}, "at least 1"),
        ({"choice": [2, 3, 2]}, r"names a value twice: \[2, 3, 2\]"),
        ({"choice": ["1/2", 0.5]}, "names a value twice"),
        ({"int": [1, 2], "float": [1, 2]}, "exactly one of int, float, choice, constant"),
        ({}, "is not a range"),
        ({"uniform": [0, 1]}, "is not a range"),
        ([2, 4], "is not a range"),
    ],
    ids=str,
)
def test_what_is_no_range_is_refused(written: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_range(written)

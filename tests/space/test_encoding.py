"""Searched points as Optuna knows them, and as numbers."""

import random
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from cfamc_ray.config.ranges import Range, parse_range
from cfamc_ray.space.encoding import distributions, encode
from cfamc_ray.space.search_space import draw

NUMERIC = st.one_of(
    st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans()).map(
        lambda parts: parse_range({"int": [parts[0], parts[0] + parts[1]], "log": parts[2]})
    ),
    st.tuples(st.integers(-50, 50), st.integers(1, 50), st.integers(1, 7)).map(
        lambda parts: parse_range({"int": [parts[0], parts[0] + parts[1]], "step": parts[2]})
    ),
    st.tuples(st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.booleans()).map(
        lambda parts: parse_range({"float": [parts[0], parts[0] * parts[1]], "log": parts[2]})
    ),
)


def test_a_grid_that_ends_below_its_bound_is_searched_without_a_warning() -> None:
    space = {"pretraining.replays": parse_range({"int": [1, 8], "step": 2})}
    with warnings.catch_warnings(action="error"):
        (found,) = distributions(space).values()
    assert isinstance(found, IntDistribution)
    assert found.high == 7


def test_constants_are_not_searched() -> None:
    space = {"crops.views": parse_range({"int": [2, 8]}), "pretraining.epochs": parse_range(3)}
    assert list(distributions(space)) == ["crops.views"]


CHOICES = st.lists(
    st.one_of(st.integers(-9, 99), st.floats(-9, 99), st.sampled_from(["batch", "group"]), st.booleans(), st.none()),
    min_size=1,
    max_size=5,
    unique=True,
).map(lambda values: parse_range({"choice": values}))


class TestEncoding:
    @given(st.one_of(NUMERIC, CHOICES, st.just(parse_range(3))), st.integers(0, 2**16))
    def test_a_point_becomes_numbers_from_0_to_1_of_which_a_range_has_always_as_many(
        self, written: Range, seed: int
    ) -> None:
        source = random.Random(seed)  # noqa: S311
        found = [encode({"a": written}, {"a": draw(written, source)}) for _ in range(5)]
        assert all(0 <= number <= 1 for numbers in found for number in numbers)
        assert len({len(numbers) for numbers in found}) == 1

    @given(NUMERIC)
    def test_the_bounds_are_0_and_1(self, written: Range) -> None:
        bounds = written.bounds  # type: ignore[union-attr]
        assert [encode({"a": written}, {"a": value}) for value in bounds] == [[0.0], [1.0]]

    @given(CHOICES)
    def test_values_of_a_choice_differ(self, written: Range) -> None:
        found = [tuple(encode({"a": written}, {"a": value})) for value in written.edges()]
        assert len(set(found)) == len(found)

    def test_numbers_keep_their_order_and_scale_and_names_have_none(self) -> None:
        space = {
            "decades": parse_range({"float": [1e-4, 1e-2], "log": True}),
            "widths": parse_range({"choice": [16, 64, 256]}),
            "shares": parse_range({"choice": [0, 0.5, 2]}),
            "norm": parse_range({"choice": ["batch", "group", "layer"]}),
            "carry": parse_range({"choice": [True, False]}),
            "fixed": parse_range(7),
        }
        point = {"decades": 1e-3, "widths": 64, "shares": 0.5, "norm": "group", "carry": False, "fixed": 7}
        assert encode(space, point) == pytest.approx([0.5, 0.5, 0.25, 0, 1, 0, 0, 1])

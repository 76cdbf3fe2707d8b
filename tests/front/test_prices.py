"""Which point of the front is the best at which price of clean accuracy."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import record, study

from cfamc_ray.front.front import find_front
from cfamc_ray.front.recommendations import price_list
from cfamc_ray.store.records import TrialRecord

THIRDS = st.integers(0, 12).map(lambda value: value / 12)


def trials(*values: tuple[float, float]) -> list[TrialRecord]:
    return [record(n, clean_accuracy=clean, robust_accuracy=robust) for n, (clean, robust) in enumerate(values)]


def test_each_price_has_its_point_and_one_below_the_hull_has_none() -> None:
    found = price_list(study(), trials((0.2, 0.5), (0.4, 0.4), (0.5, 0.3), (0.7, 0.2)))
    assert [price.record.number for price in found] == [0, 1, 3]
    # From trial 0 to 1, 20 points clean cost 10 points robust; from 1 to 3, 30 points cost 20.
    assert [price.low for price in found] == pytest.approx([0, 0.5, 2 / 3])
    assert [price.high for price in found] == pytest.approx([0.5, 2 / 3, math.inf])


@given(st.lists(st.tuples(THIRDS, THIRDS), min_size=1, max_size=8), st.floats(0.01, 100))
def test_at_any_price_no_point_of_the_front_is_better_than_the_listed_one(
    values: list[tuple[float, float]], price: float
) -> None:
    records = trials(*values)
    prices = price_list(study(), records)
    assert prices[0].low == 0
    assert all(one.high == other.low and one.low < one.high for one, other in pairwise(prices))
    assert prices[-1].high == math.inf
    (chosen,) = [one.record for one in prices if one.low <= price < one.high]

    def worth(one: TrialRecord) -> float:
        return one.value("robust_accuracy") + price * one.value("clean_accuracy")

    assert worth(chosen) == pytest.approx(max(map(worth, find_front(study(), records).members)))


def test_the_third_objective_has_no_part_in_it() -> None:
    config = study(objectives={"clean_accuracy": "maximize", "robust_accuracy": "maximize", "crop_passes": "minimize"})
    records = [
        record(0, clean_accuracy=0.5, robust_accuracy=0.4, crop_passes=50),
        record(1, clean_accuracy=0.6, robust_accuracy=0.5, crop_passes=90),
        record(2, clean_accuracy=0.5, robust_accuracy=0.3, crop_passes=10),
    ]
    assert [(one.record.number, one.low, one.high) for one in price_list(config, records)] == [(1, 0.0, math.inf)]


def test_without_two_accuracies_there_is_no_price() -> None:
    records = trials((0.2, 0.5), (0.4, 0.4))
    assert price_list(study(objectives={"robust_accuracy": "maximize"}), records) == []
    costly = {"robust_accuracy": "maximize", "crop_passes": "minimize"}
    assert price_list(study(objectives=costly), records) == []
    assert price_list(study(), []) == []

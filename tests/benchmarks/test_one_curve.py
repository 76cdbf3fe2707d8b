"""How many trials at one strength equal a curve, counted by hand."""

import pytest

from benchmarks.one_curve import curves_of, summary, trials_that_equal


def test_the_number_of_others_is_the_first_whose_volume_reaches_the_curve() -> None:
    whole = {0.01: (1.0, 0.1), 0.1: (0.1, 1.0)}
    ends = [{0.01: (1.0, 0.1), 0.1: (1.0, 0.1)}, {0.01: (0.1, 1.0), 0.1: (0.1, 1.0)}]
    equal, *_ = trials_that_equal([whole, *ends], 0.01, (0.0, 0.0), orders=20)
    assert equal == 2, "only both ends together hold what the curve holds"
    unreached, *_ = trials_that_equal([whole, ends[0], ends[0]], 0.01, (0.0, 0.0), orders=5)
    assert unreached == 3, "two others do not reach it"


def test_the_mean_is_over_orders() -> None:
    curves = [{0.01: (0.5, 0.5)}, {0.01: (0.9, 0.9)}, {0.01: (0.1, 0.1)}]
    first, *_ = trials_that_equal(curves, 0.01, (0.0, 0.0), orders=400)
    assert first == pytest.approx(1.5, abs=0.1), "the better of two comes first in half of the orders"


def test_a_curve_that_adds_nothing_equals_no_trial() -> None:
    curves = [{0.01: (0.0, 0.0)}, {0.01: (0.5, 0.5)}, {0.01: (0.5, 0.5)}]
    assert trials_that_equal(curves, 0.01, (0.0, 0.0), orders=3)[0] == 0
    found = summary(curves, [0.01], orders=3)
    assert found["trials"] == 3
    assert 1 <= found["L2 0.01"]["from zero"]["best trial"] <= 2


def test_curves_are_those_after_the_last_epoch_by_width_and_seed() -> None:
    def rows(*clean: float) -> list[dict[str, object]]:
        return [{"operating_points": [{"l2": 0.1, "clean_accuracy": c, "robust_accuracy": 0.2}]} for c in clean]

    cells = [{"width": 8, "seed": 0, "rows": rows(0.1, 0.4)}, {"width": 16, "seed": 0, "rows": rows(0.3)}]
    assert curves_of(cells) == {(8, 0): [{0.1: (0.4, 0.2)}], (16, 0): [{0.1: (0.3, 0.2)}]}

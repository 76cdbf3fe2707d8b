import math

import pytest
from made_by_hand import curve, record, study

from cfamc_ray.front.curves import find_curves

TWO = [
    curve(0, (0.01, 0.50, 0.10), (0.1, 0.48, 0.16), (1.0, 0.40, 0.20)),
    curve(1, (0.01, 0.60, 0.04), (0.1, 0.56, 0.12), (1.0, 0.45, 0.18)),
]


def test_spreads_are_medians_of_ranges_over_a_table_of_trials_and_strengths() -> None:
    found = find_curves(study(), TWO)
    assert found is not None
    clean, robust = found.spreads["clean_accuracy"], found.spreads["robust_accuracy"]
    assert clean.head == pytest.approx((0.10 + 0.15) / 2)
    assert clean.training == pytest.approx(0.08), "of 0.10, 0.08 and 0.05"
    assert robust.head == pytest.approx((0.10 + 0.14) / 2)
    assert robust.training == pytest.approx(0.04), "of 0.06, 0.04 and 0.02"


def test_the_gain_is_over_the_best_single_strength_with_the_same_reference() -> None:
    found = find_curves(study(), TWO)
    assert found is not None
    # At 1: 0.45 wide up to 0.18, and 0.40 up to 0.20; at 0.1: 0.56 up to 0.12, and 0.48 up to 0.16.
    single = {1.0: 0.45 * 0.18 + 0.40 * 0.02, 0.1: 0.56 * 0.12 + 0.48 * 0.04}
    assert found.best_l2 == 1.0
    every = 0.60 * 0.04 + 0.56 * 0.08 + 0.48 * 0.04 + 0.45 * 0.02 + 0.40 * 0.02
    assert single[1.0] > single[0.1]
    assert found.gain == pytest.approx(every / single[1.0])


def test_only_what_the_objectives_have_is_compared() -> None:
    found = find_curves(study(objectives={"robust_accuracy": "maximize", "flops": "minimize"}), TWO)
    assert found is not None
    assert found.spreads.keys() == {"robust_accuracy"}
    assert find_curves(study(objectives={"flops": "minimize"}), TWO) is None


def test_equal_points_of_a_trial_are_points_all_the_same() -> None:
    flat = [curve(n, (0.1, 0.5, 0.2), (1.0, 0.5, 0.2)) for n in range(2)]
    found = find_curves(study(), flat)
    assert found is not None
    assert (found.spreads["robust_accuracy"].head, found.gain) == (0, 1)


@pytest.mark.parametrize(
    "records",
    [
        [],
        TWO[:1],
        [record(0), record(1)],
        [TWO[0], record(1)],
        [TWO[0], curve(1, (0.1, 0.5, 0.2), (5.0, 0.4, 0.3))],
        [TWO[0], curve(1, (0.01, 0.5, 0.2), (0.1, 0.4, 0.3), status="stopped")],
        [curve(n, (0.1, 0.5, 0.2)) for n in range(2)],
    ],
    ids=["nothing", "one trial", "older trials", "one curve", "one shared strength", "one stopped", "one strength"],
)
def test_there_is_nothing_to_compare_without_two_curves_over_two_strengths(records: list) -> None:  # type: ignore[type-arg]
    assert find_curves(study(), records) is None


def test_where_nothing_was_right_there_is_no_ratio() -> None:
    found = find_curves(study(), [curve(n, (0.1, 0.0, 0.0), (1.0, 0.0, 0.0)) for n in range(2)])
    assert found is not None
    assert math.isnan(found.gain)

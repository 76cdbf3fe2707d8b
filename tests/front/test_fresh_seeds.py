"""What fresh seeds say of a front."""

import math

import pytest
from made_by_hand import record, study
from scipy.stats import ttest_1samp

from cfamc_ray.front.confirmation import FreshRun, candidates, confirm, confirmation_table

OBJECTIVES = {"clean_accuracy": "maximize", "crop_passes": "minimize"}
CONFIG = study(objectives=OBJECTIVES, confirm={"attacks": ["pgd20"]})


def fresh(clean: float, passes: float = 100.0, again: float = 0.6) -> FreshRun:
    return FreshRun({"clean_accuracy": clean, "crop_passes": passes, "pgd20": 0.1}, {"clean_accuracy": again})


def test_the_mean_its_interval_and_how_optimistic_the_search_was() -> None:
    runs = [fresh(0.4), fresh(0.5), fresh(0.48)]
    (one,) = confirm(OBJECTIVES, [record(0, clean_accuracy=0.55)], {0: runs}, attacks=["pgd20"])
    expected = ttest_1samp([0.4, 0.5, 0.48], 0).confidence_interval(0.95)
    assert one.tested["clean_accuracy"].mean == pytest.approx(0.46)
    assert one.tested["clean_accuracy"].interval == pytest.approx((expected.low, expected.high))
    assert one.optimism["clean_accuracy"] == pytest.approx(0.09)
    assert one.optimism["crop_passes"] == 0.0
    assert one.again["clean_accuracy"].mean == pytest.approx(0.6)
    assert (one.seeds, one.front_probability) == (3, 1.0)


def test_a_run_that_misses_a_metric_is_left_out() -> None:
    runs = [fresh(0.4), fresh(math.nan), FreshRun({"clean_accuracy": 0.4, "crop_passes": 1.0}, {"clean_accuracy": 0.6})]
    (one,) = confirm(OBJECTIVES, [record(0)], {0: runs}, attacks=["pgd20"])
    assert one.seeds == 1
    assert all(map(math.isnan, one.tested["clean_accuracy"].interval))


def test_what_is_clearly_worse_is_not_on_the_front_and_equals_share_it() -> None:
    runs = {0: [fresh(0.5), fresh(0.5)], 1: [fresh(0.3), fresh(0.31)], 2: []}
    found = confirm(OBJECTIVES, [record(number) for number in range(3)], runs, attacks=["pgd20"])
    assert [one.front_probability for one in found][:2] == [1.0, 0.0]
    assert math.isnan(found[2].front_probability)


def test_the_table_has_typed_columns_for_all_that_its_rows_hold() -> None:
    found = confirm(OBJECTIVES, [record(0), record(1)], {0: [fresh(0.4), fresh(0.5)], 1: []}, attacks=["pgd20"])
    table = confirmation_table(found, CONFIG)
    assert all(set(row) == set(table.names) for row in table.rows)
    assert table.names[:8] == [
        *("trial_id", "seeds", "front_probability"),
        *(f"clean_accuracy_{part}" for part in ("mean", "low", "high", "searched", "optimism")),
    ]
    assert {"clean_accuracy_again_mean", "pgd20_high", "crop_passes_searched"} <= set(table.names)
    shown = dict(zip(table.names, table.shown()[0], strict=True))
    assert (shown["clean_accuracy_mean"], shown["crop_passes_mean"]) == ("45.0%", "100")
    assert table.rows[1]["clean_accuracy_mean"] is None


@pytest.mark.parametrize(("tolerance", "numbers"), [(0.1, [1, 0]), (0.5, [1, 0, 2]), (1.0, [1, 0, 2, 3])])
def test_candidates_are_the_front_and_what_no_trial_dominates_once_it_is_improved(
    tolerance: float, numbers: list[int]
) -> None:
    values = [(0.4, 100), (0.5, 200), (0.38, 110), (0.31, 200)]
    trials = [record(n, clean_accuracy=clean, crop_passes=passes) for n, (clean, passes) in enumerate(values)]
    assert [one.number for one in candidates(CONFIG, trials, tolerance=tolerance)] == numbers

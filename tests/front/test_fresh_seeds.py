"""What fresh seeds say of a front."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import operating_point, record, study
from scipy.stats import ttest_1samp

from cfamc_ray.front.confirmation import FreshRun, confirm, confirmation_table
from cfamc_ray.store.records import TrialRecord

OBJECTIVES = {"clean_accuracy": "maximize", "crop_passes": "minimize"}
CONFIG = study(objectives=OBJECTIVES, confirm={"attacks": ["pgd20"]})


def fresh(clean: float, passes: float = 100.0, again: float = 0.6, seed: int = 1) -> FreshRun:
    return FreshRun(seed, {"clean_accuracy": clean, "crop_passes": passes, "pgd20": 0.1}, {"clean_accuracy": again})


def runs(*values: float) -> list[FreshRun]:
    """One for each value of clean accuracy, with seeds from 1."""
    return [fresh(value, seed=seed) for seed, value in enumerate(values, start=1)]


def points(number: int, *cleans: float) -> list[TrialRecord]:
    """A trial at operating points with these clean accuracies."""
    rows = [operating_point(10.0**place, clean, 0.2) for place, clean in enumerate(cleans)]
    return record(number, operating_points=rows).each_point(OBJECTIVES)


def test_the_mean_its_interval_and_how_optimistic_the_search_was() -> None:
    searched = record(0, clean_accuracy=0.65)
    (one,) = confirm(OBJECTIVES, [searched], {searched.key: runs(0.4, 0.5, 0.48)}, attacks=["pgd20"])
    expected = ttest_1samp([0.4, 0.5, 0.48], 0).confidence_interval(0.95)
    assert one.tested["clean_accuracy"].mean == pytest.approx(0.46)
    assert one.tested["clean_accuracy"].interval == pytest.approx((expected.low, expected.high))
    assert one.optimism["clean_accuracy"] == pytest.approx(0.19)
    assert one.optimism["crop_passes"] == 0.0
    assert one.selection == {"clean_accuracy": pytest.approx(0.05)}
    assert one.again["clean_accuracy"].mean == pytest.approx(0.6)
    assert (one.seeds, one.front_probability) == (3, 1.0)


def test_a_run_that_misses_a_metric_is_left_out() -> None:
    without_attack = FreshRun(3, {"clean_accuracy": 0.4, "crop_passes": 1.0}, {"clean_accuracy": 0.6})
    (one,) = confirm(OBJECTIVES, [record(0)], {(0, None): [*runs(math.nan, 0.4), without_attack]}, attacks=["pgd20"])
    assert (one.seeds, one.fresh_seeds) == (1, (2,))
    assert all(map(math.isnan, one.tested["clean_accuracy"].interval))


def test_what_is_clearly_worse_is_not_on_the_front_and_equals_share_it() -> None:
    searched = [record(number) for number in range(3)]
    tested = {searched[0].key: runs(0.5, 0.5), searched[1].key: runs(0.3, 0.31)}
    found = confirm(OBJECTIVES, searched, tested, attacks=["pgd20"])
    assert [one.front_probability for one in found][:2] == [1.0, 0.0]
    assert math.isnan(found[2].front_probability)


def test_the_table_has_typed_columns_for_all_that_its_rows_hold() -> None:
    found = confirm(OBJECTIVES, [record(0), *points(1, 0.4)], {(0, None): runs(0.4, 0.5)}, attacks=["pgd20"])
    table = confirmation_table(found, CONFIG)
    assert all(set(row) == set(table.names) for row in table.rows)
    assert table.names[:10] == [
        *("trial_id", "evaluation.head.l2", "seeds", "front_probability"),
        *(f"clean_accuracy_{part}" for part in ("mean", "low", "high", "searched", "optimism", "selection")),
    ]
    assert {"clean_accuracy_again_mean", "pgd20_high", "crop_passes_searched"} <= set(table.names)
    assert "crop_passes_selection" not in table.names
    assert [row["evaluation.head.l2"] for row in table.rows] == [None, 1.0]
    shown = dict(zip(table.names, table.shown()[0], strict=True))
    assert (shown["clean_accuracy_mean"], shown["crop_passes_mean"]) == ("45.0%", "100")
    assert table.rows[1]["clean_accuracy_mean"] is None


def probabilities(searched: list[TrialRecord], tested: list[list[FreshRun]]) -> list[float]:
    by_key = {record.key: group for record, group in zip(searched, tested, strict=True)}
    return [one.front_probability for one in confirm(OBJECTIVES, searched, by_key, resamples=8000)]


class TestOperatingPoints:
    def test_those_of_one_trial_are_compared_on_the_same_seeds(self) -> None:
        """B is worse than A with each seed by less than seeds differ."""
        a, b = runs(0.3, 0.4, 0.5), runs(0.29, 0.39, 0.49)
        assert probabilities(points(0, 0.5, 0.5), [a, b]) == [1.0, 0.0]
        of_trials = probabilities([record(0), record(1)], [a, b])
        assert 0.5 < of_trials[0] < 0.7
        assert 0.3 < of_trials[1] < 0.5

    def test_two_trials_are_resampled_independently(self) -> None:
        """Each mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4; one is at least the other with 11/16."""
        of_trials = probabilities([record(0), record(1)], [runs(0.0, 1.0), runs(0.0, 1.0)])
        assert of_trials == pytest.approx([11 / 16] * 2, abs=0.02)
        assert probabilities(points(0, 0.5, 0.5), [runs(0.0, 1.0), runs(0.0, 1.0)]) == [1.0, 1.0]

    def test_trials_that_differ_in_their_seed_alone_share_encoders(self) -> None:
        a, b = (replace(record(0), number=n, point={**record(0).point, "seed": n}) for n in (0, 1))
        assert probabilities([a, b], [runs(0.0, 1.0), runs(0.0, 1.0)]) == [1.0, 1.0]

    def test_a_resample_counts_for_a_point_if_one_of_its_seeds_was_tested_there(self) -> None:
        """B has the first seed alone; it beats A in draws of this seed alone, and ties with A in draws of both."""
        a, b = probabilities(points(0, 0.5, 0.5), [runs(0.5, 1.0), runs(0.75)])
        assert a == pytest.approx(3 / 4, abs=0.02)
        assert b == 1.0

    @given(
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
        st.floats(0, 1),
        st.sampled_from(["maximize", "minimize"]),
    )
    def test_optimism_is_selection_and_what_lies_between_validation_and_test(
        self, measured: list[tuple[float, float]], saw: float, direction: str
    ) -> None:
        (searched,) = points(0, saw)
        group = [fresh(tested, again=again, seed=seed) for seed, (tested, again) in enumerate(measured)]
        (one,) = confirm({"clean_accuracy": direction}, [searched], {searched.key: group}, resamples=2)
        sign = 1 if direction == "maximize" else -1
        between = sign * (one.again["clean_accuracy"].mean - one.tested["clean_accuracy"].mean)
        assert one.optimism["clean_accuracy"] == pytest.approx(one.selection["clean_accuracy"] + between)
        assert one.searched == {"clean_accuracy": saw}

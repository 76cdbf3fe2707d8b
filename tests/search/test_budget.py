"""Costs against limits, on trials made by hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from asking import Work, rows_of, work_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import CostModel, fit_costs
from cfamc_ray.search import budget
from cfamc_ray.search.budget import Budget
from cfamc_ray.space.search_space import SAMPLE, SearchSpace
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason

SPACE = {"crops.views": {"int": [2, 40]}, "pretraining.epochs": 4}
PER_VIEW = 4 * 45_000 * 3
"""Crop passes of a trial, for each of its views."""
LIMITS = {"crop_passes": PER_VIEW, "flops": 1e6 * PER_VIEW, "hours": 1e6 * PER_VIEW / 1e12 / 3600}
"""What a view costs; a trial's measurements take seconds besides."""


def study(budget: Mapping[str, Any], *, at_once: int = 1) -> StudyConfig:
    resources = {"trials_at_once": at_once}
    return StudyConfig.model_validate({"name": "made", "budget": budget, "resources": resources, "space": SPACE})


def record(number: int, views: int, status: Status = "finished", *, epochs: int = 4, source: str = "") -> TrialRecord:
    begun = TrialRecord(number, point(views))
    rows = rows_of(study({}), begun)[:epochs]
    return TrialRecord(number, begun.point, rows, status, source=source)


def text(reason: StopReason | None) -> str:
    return reason.text if reason else ""


def point(views: int) -> dict[str, int]:
    return {"crops.views": views, "pretraining.epochs": 4}


def budget_of(config: StudyConfig, **given: Any) -> Budget:
    return Budget(config, work_of=work_of, **given)


@pytest.mark.parametrize(
    ("records", "over"),
    [
        ([], False),
        ([record(0, 2), record(1, 2, "failed", epochs=0)], False),
        ([record(0, 2), record(1, 2, "failed", epochs=0), record(2, 2, "stopped")], True),
        ([record(0, 2), record(1, 2, "running"), record(2, 2, "running", epochs=0)], True),
        ([record(0, 2), record(1, 2), record(2, 2, "infeasible", epochs=0)], False),
        ([record(0, 2), record(1, 2), record(2, 2, source="earlier/trial_00007")], False),
        ([record(number, 2, source=f"earlier/{number}") for number in range(9)], False),
    ],
)
def test_trials_that_began_count_and_imported_and_refused_ones_do_not(
    records: Sequence[TrialRecord], over: bool
) -> None:
    assert bool(budget_of(study({"trials": 3})).over(records)) is over


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    ("records", "views"),
    [
        ([], 20),
        ([record(0, 5)], 15),
        ([record(0, 8, "stopped", epochs=1)], 18),
        ([record(0, 8, "failed", epochs=2)], 16),
        ([record(0, 8, "failed", epochs=0)], 20),
        ([record(0, 9, "infeasible", epochs=0)], 20),
        ([record(0, 9, source="earlier/trial_00000")], 20),
        ([record(0, 8, "running", epochs=1)], 12),
        ([record(0, 5), record(1, 4, "running", epochs=0), record(2, 8, "stopped", epochs=1)], 9),
    ],
)
def test_what_is_left_is_paid_to_the_last_and_not_beyond(name: str, records: Sequence[TrialRecord], views: int) -> None:
    measured = 0.0
    if name == "hours":  # two sizes tell the seconds of a FLOP from those of a measurement
        records = [record(7, 2), record(8, 3), *records]
        ended = sum(len(known.rows) for known in records if known.ended and known.counts)
        measured = ended + 4 * sum(not known.ended for known in records) + 4
    extra = 5 if name == "hours" else 0
    limit = LIMITS[name] * (20 + extra) + measured / 3600
    budget = budget_of(study({name: limit * (1 + 1e-6)}))
    assert budget.refusal(point(views), records) is None
    assert f"of budget.{name}, of which " in text(budget.refusal(point(views + 1), records))


@pytest.mark.parametrize("name", ["crop_passes", "flops"])
def test_a_refusal_says_what_would_be_needed_and_what_is_left(name: str) -> None:
    said = text(budget_of(study({name: LIMITS[name]})).refusal(point(5), [record(0, 3, epochs=1)]))
    assert said == f"would need {LIMITS[name] * 5:.3g} of budget.{name}, of which {LIMITS[name] / 4:.3g} are left"


def test_a_refusal_in_hours_says_that_they_are_an_estimate() -> None:
    said = text(budget_of(study({"hours": LIMITS["hours"]})).refusal(point(5), [record(0, 2), record(1, 3)]))
    assert said.startswith("would need about ")
    assert said.endswith(" of budget.hours, of which 0 are left")


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_is_spent_refuses_whatever_is_left_of_the_others(name: str) -> None:
    config = study({other: 1e6 * each for other, each in LIMITS.items()} | {name: LIMITS[name] * 2})
    over = text(budget_of(config).over([record(0, 3)]))
    assert over.startswith("no trial fits the remaining budget: ")
    assert f"0 of budget.{name}" in over
    assert f"of budget.{name}, of which 0 are left" in text(budget_of(config).refusal(point(2), [record(0, 3)]))


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_hours_are_those_of_the_places_that_work_side_by_side(at_once: int) -> None:
    ran = [record(0, 2), record(1, 3)]
    seconds = sum(known.value("train_seconds") + known.value("eval_seconds") for known in ran)
    needed = 10 * PER_VIEW * 1e6 / 1e12 + 4
    for share, fits in ((1.01, True), (0.99, False)):
        hours = (seconds + needed * share) / at_once / 3600
        assert (budget_of(study({"hours": hours}, at_once=at_once)).refusal(point(10), ran) is None) is fits


def test_seconds_are_not_guessed_before_anything_has_run() -> None:
    budget = budget_of(study({"hours": 1e-9}))
    assert budget.refusal(point(40), []) is None
    assert budget.over([]) is None
    assert budget.over([record(0, 2)])


@settings(max_examples=25)
@given(
    limit=st.floats(1.0, 60.0),
    views=st.lists(st.integers(2, 20), max_size=4),
    name=st.sampled_from(["crop_passes", "flops"]),
)
def test_a_study_is_over_iff_each_of_its_sample_points_would_be_refused(
    limit: float, views: list[int], name: str
) -> None:
    config = study({name: limit * LIMITS[name]})
    budget, ran = budget_of(config), [record(number, found) for number, found in enumerate(views)]
    refused = [bool(budget.refusal(found, ran)) for found in islice(SearchSpace(config).points(), SAMPLE)]
    assert bool(budget.over(ran)) is all(refused)
    assert all(refused) is (limit - sum(views) < 2)


def test_without_limits_in_cost_nothing_is_refused() -> None:
    assert budget_of(study({})).refusal(point(40), [record(number, 40) for number in range(15)]) is None


class TestMemory:
    RAN = (record(0, 2), record(1, 8, "stopped", epochs=1))

    def need(self, views: int) -> float:
        """As the made-up trials report it: it grows evenly with the views."""
        (small, large) = (known.value("peak_memory_bytes") for known in self.RAN)
        return small + (large - small) * (views - 2) / 6

    def test_a_point_that_needs_more_than_there_is_is_refused(self) -> None:
        budget = budget_of(study({}), memory_bytes=self.need(20) * (1 + 1e-6))
        assert budget.refusal(point(20), self.RAN) is None
        said = text(budget.refusal(point(21), self.RAN))
        assert said == f"would need about {self.need(21) / 1e9:.3g} GB of memory, of {self.need(20) / 1e9:.3g} GB"

    @pytest.mark.parametrize("ran", [(), RAN[:1], (record(0, 40), record(1, 40))])
    def test_it_is_not_guessed_before_two_sizes_have_run(self, ran: Sequence[TrialRecord]) -> None:
        assert budget_of(study({}), memory_bytes=1.0).refusal(point(40), ran) is None

    def test_what_was_measured_elsewhere_tells_it_before_anything_has_run(self) -> None:
        work = work_of(study({}).trial_at(point(20)))
        costs = CostModel(work_of, 1, {"flop": 1.0}, {"process": 1e8, "kept_activation": 2.0})
        budget = budget_of(study({}), memory_bytes=1e8 + 2 * work.kept, costs=costs)
        assert budget.refusal(point(20), []) is None
        assert "GB of memory" in text(budget.refusal(point(21), []))
        assert budget.refusal(point(21), self.RAN) is None, "its own trials, which take less, know better"

    def test_what_an_evaluation_needs_counts_where_it_is_more_than_training_needs(self) -> None:
        def work(trial: TrialConfig) -> Work:
            return work_of(trial)._replace(evaluation_kept=1e9)

        costs = CostModel(work, 1, {"flop": 1.0}, {"process": 1e8, "kept_activation": 2.0})
        for memory_bytes, refused in ((2.2e9, False), (2.0e9, True)):
            budget = Budget(study({}), work_of=work, memory_bytes=memory_bytes, costs=costs)
            assert ("would need about 2.1 GB of memory" in text(budget.refusal(point(20), []))) is refused

    def test_without_a_limit_there_is_none(self) -> None:
        assert budget_of(study({})).refusal(point(40), self.RAN) is None


class TestPlateau:
    @staticmethod
    def over(scores: Sequence[float | None], *, tolerance: float, trials: int = 3, **given: Any) -> str:
        """Of trials that have reached these accuracies; None of one that failed."""
        config = study({"trials": 99, "plateau": {"trials": trials, "tolerance": tolerance}})
        records = [
            TrialRecord(
                number,
                point(2),
                [{"done": True, "clean_accuracy": score, "robust_accuracy": score}],
                "failed" if score is None else "finished",
                **given,
            )
            for number, score in enumerate(scores)
        ]
        return text(budget_of(config).over(records))

    @pytest.mark.parametrize(
        ("scores", "tolerance", "over"),
        [
            ([0.5, 0.5, 0.5], 0.01, False),  # nothing came before these three
            ([0.5, 0.5, 0.5, 0.5], 0.01, True),
            ([0.5, 0.4, 0.3, 0.2], 0.01, True),
            ([0.5, 0.5, 0.5, 0.51], 0.03, False),  # 0.51² is 4 % more than 0.5²
            ([0.5, 0.5, 0.5, 0.51], 0.05, True),
            ([0.5, 0.51, 0.5, 0.5], 0.03, False),
            ([0.5, 0.51, 0.5, 0.5, 0.5], 0.03, True),
            ([0.5, 0.5, 0.5, 0.5], 0, False),  # nothing is less than nothing
            ([0.5, None, None, None], 0.01, True),
            ([None, 0.5, 0.5, 0.5], 0.01, False),
            ([None, None, None, None, None], 0.01, False),
            ([0.0, 0.0, 0.0, 0.0], 0.01, False),
        ],
        ids=str,
    )
    def test_it_is_reached_when_the_last_trials_added_less_than_the_tolerance(
        self, scores: Sequence[float | None], tolerance: float, over: bool
    ) -> None:
        assert bool(self.over(scores, tolerance=tolerance)) is over

    def test_it_says_what_was_added(self) -> None:
        said = self.over([0.5, 0.5, 0.5, 0.51], tolerance=0.05)
        assert "the last 3 trials added 3.88% to its hypervolume" in said
        assert "budget.plateau.tolerance 5.00%" in said

    def test_trials_of_another_study_are_no_trials_in_a_row(self) -> None:
        assert self.over([0.5] * 4, tolerance=0.01)
        assert not self.over([0.5] * 4, tolerance=0.01, source="earlier/trial_00000")

    def test_a_growing_cost_is_no_growth_of_the_front(self) -> None:
        """The reference of a minimised objective is its worst value, which a bad trial moves."""
        config = StudyConfig.model_validate(
            {
                "name": "made",
                "objectives": {"clean_accuracy": "maximize", "flops": "minimize"},
                "budget": {"trials": 99, "plateau": {"trials": 1, "tolerance": 0.01}},
                "space": SPACE,
            }
        )
        records = [
            TrialRecord(number, point(2), [{"clean_accuracy": clean, "flops": flops}], "finished")
            for number, (clean, flops) in enumerate([(0.5, 1.0), (0.6, 2.0), (0.1, 50.0)])
        ]
        assert "on a plateau" in text(budget_of(config).over(records))


def test_what_a_trial_did_not_report_costs_nothing() -> None:
    unknown = TrialRecord(0, point(30), [{"epoch": 1, "crop_passes": None, "flops": math.nan}], "failed")
    config = study({name: 40 * each for name, each in LIMITS.items()})
    assert budget_of(config).refusal(point(40), [unknown]) is None


class TestGrowth:
    """What is computed once, however often it is asked."""

    LIMITED = study({"trials": 99, "hours": 1e3})

    def test_many_points_are_judged_by_one_fit_as_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        records = [record(number, 2 + number % 5) for number in range(20)]
        limited = study({"trials": 99, "crop_passes": 100 * PER_VIEW})
        expected = [not budget_of(limited).refusal(point(views), records) for views in range(2, 41)]
        fitted: list[int] = []
        monkeypatch.setattr(budget, "fit_costs", lambda *a, **b: fitted.append(1) or fit_costs(*a, **b))  # type: ignore[func-returns-value]
        fits = budget_of(limited).fits(records)
        assert [fits(point(views)) for views in range(2, 41)] == expected
        assert True in expected
        assert False in expected
        assert len(fitted) == 1

    def test_costs_are_fitted_anew_only_once_a_record_is_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fitted: list[int] = []
        monkeypatch.setattr(budget, "fit_costs", lambda *a, **b: fitted.append(1) or fit_costs(*a, **b))  # type: ignore[func-returns-value]
        used = budget_of(self.LIMITED)
        records = [record(number, 2 + number % 5) for number in range(9)]
        for _ in range(3):
            assert not used.over(list(records))
            assert not used.refusal(point(3), list(records))
        assert len(fitted) == 1
        dear = replace(records[0], rows=[{**row, "train_seconds": 1e9} for row in records[0].rows])
        assert used.over([dear, *records[1:]]) == budget_of(self.LIMITED).over([dear, *records[1:]]) is not None
        assert not used.over(records)

    def test_the_trial_of_each_record_is_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []
        trial_at = StudyConfig.trial_at
        monkeypatch.setattr(StudyConfig, "trial_at", lambda self, point: made.append(1) or trial_at(self, point))  # type: ignore[func-returns-value]
        used, counts = budget_of(self.LIMITED), []
        records = [record(number, 2 + number % 5) for number in range(40)]
        for known in (20, 21, 40):
            made.clear()
            used.refusal(point(3), records[:known])
            counts.append(len(made))
        assert counts == [21, 2, 20]

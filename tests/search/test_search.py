"""A search on made-up trials, to its end, interrupted and refused."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from asking import Point, advance, drive, flops_of, search_of, spent, study_of, work_of
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from cfamc_ray.search.search import REFUSALS, Proposal, Search
from cfamc_ray.space.encoding import distributions
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason

VIEWS: dict[str, Any] = {
    "space": {
        "crops.views": {"int": [2, 40]},
        "perturbation.epsilon": {"float": [0.01, 0.05]},
        "pretraining.epochs": 4,
    },
    "constraints": [],
}
PER_VIEW = 4 * 45_000 * 3
"""Crop passes of a trial of this space, for each of its views."""


def infeasible(search: Search) -> list[TrialRecord]:
    return [record for record in search.records.values() if record.status == "infeasible"]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(
    ("name", "limit", "cost", "unit"),
    [
        ("trials", 7, "", 1.0),
        ("crop_passes", 60.0 * PER_VIEW, "crop_passes", 1.0),
        ("flops", 60e6 * PER_VIEW, "flops", 1.0),
        ("hours", 0.05, "train_seconds", 3600.0),
    ],
)
def test_each_limit_ends_the_study_once_nothing_fits_what_is_left(
    name: str, limit: float, cost: str, unit: float, at_once: int
) -> None:
    budget = {"trials": 60, name: limit}
    config = study_of(**VIEWS, budget=budget, resources={"trials_at_once": at_once})
    search = search_of(config)
    proposed = drive(search, at_once=at_once)
    assert search.over is not None
    assert f"budget.{name}" in search.over.text
    assert search.suggest() is None
    assert 2 <= len(proposed) < 60
    if name == "trials":
        assert len(proposed) == limit
    else:
        seconds = spent(search, "eval_seconds") if name == "hours" else 0.0
        left = limit - (spent(search, cost) + seconds) / unit / (at_once if name == "hours" else 1)
        cheapest = config.trial_at({"crops.views": 2, "pretraining.epochs": 4})
        least = {"crop_passes": cheapest.crop_passes, "flops": flops_of(cheapest)}
        least["hours"] = (flops_of(cheapest) / 1e12 + 4) / 3600 / at_once
        assert 0 <= left < least[name] * 1.001


@settings(max_examples=25)
@given(
    limit=st.floats(2.0, 150.0),
    seed=st.integers(0, 2**16),
    at_once=st.sampled_from([1, 3]),
    failing=st.integers(2, 9),
    mo_asha=st.sampled_from([None, {"rungs": [0.5], "keep": 0.5}]),
)
def test_crop_passes_never_exceed_their_budget(
    limit: float, seed: int, at_once: int, failing: int, mo_asha: dict[str, Any] | None
) -> None:
    config = study_of(
        **VIEWS,
        search={"sampler": "random", "seed": seed, "mo_asha": mo_asha},
        budget={"trials": 12, "crop_passes": limit * PER_VIEW},
    )
    search = search_of(config)
    drive(search, at_once=at_once, failure=lambda number: "" if number % failing else f"cause {chr(97 + number)}")
    assert spent(search, "crop_passes") <= limit * PER_VIEW
    assert search.over


def test_without_a_budget_in_seconds_or_passes_nothing_is_refused() -> None:
    search = search_of(study_of(**VIEWS, budget={"trials": 20}))
    assert len(drive(search)) == 20
    assert infeasible(search) == []


class TestRefusal:
    @staticmethod
    def run(sampler: str = "random", **given: Any) -> tuple[Search, list[TrialRecord]]:
        """A search whose budget pays trials of 6 views, and what it refused."""
        told: list[TrialRecord] = []
        config = study_of(
            **VIEWS,
            search={"sampler": sampler, "startup_trials": 20, "seed": 1},
            budget={"trials": 3, "crop_passes": 6 * PER_VIEW},
        )
        search = search_of(config, on_refused=told.append, **given)
        drive(search)
        return search, told

    def test_a_point_that_does_not_fit_is_noted_told_and_never_runs(self) -> None:
        search, told = self.run()
        assert told == infeasible(search) != []
        for record in told:
            passes = record.point["crops.views"] * PER_VIEW
            assert record.rows == ()
            assert record.reason.startswith(f"would need {passes:.3g} of budget.crop_passes, of which ")
            trial = search.study.trials[record.number]
            assert (trial.state, trial.values) == (TrialState.PRUNED, None)
            assert max(trial.constraints.values()) > 0

    def test_refused_points_do_not_count_as_trials(self) -> None:
        search, told = self.run()
        assert len(told) > search.config.budget.trials
        finished = [record for record in search.records.values() if record.status == "finished"]
        assert len(finished) + len(told) == len(search.records)
        assert 1 <= len(finished) <= 3

    @pytest.mark.parametrize("sampler", ["random", "tpe", "front"])
    def test_after_many_refusals_affordable_points_come(self, sampler: str) -> None:
        search, told = self.run(sampler)
        finished = [record for record in search.records.values() if record.status == "finished"]
        numbers = [-1, *(record.number for record in finished), len(search.records)]
        gaps = [after - before - 1 for before, after in pairwise(numbers)]
        assert max(gaps) == REFUSALS  # it was needed
        assert all(SearchSpace(search.config).contains(record.point) for record in [*told, *finished])
        assert 4 < sum(record.point["crops.views"] for record in finished) <= 6

    def test_what_was_once_too_dear_is_proposed_again_when_a_running_trial_leaves_room(self) -> None:
        """The search narrows to what fits for one proposal alone."""
        config = study_of(**VIEWS, budget={"trials": 30, "crop_passes": 80 * PER_VIEW})
        search = search_of(config)
        drive(search, at_once=3, failure=lambda number: f"cause {chr(97 + number)}" if number < 5 else "")
        assert max(record.point["crops.views"] for record in search.records.values() if record.number >= 5) > 20


class TestMemory:
    SIZES: dict[str, Any] = {"space": {"crops.views": {"int": [2, 40]}, "pretraining.epochs": 4}, "constraints": []}

    @staticmethod
    def bytes_of(config: Any, views: int) -> float:
        return 1e8 + work_of(config.trial_at({"crops.views": views})).kept

    @pytest.mark.parametrize("views", [12, 28])
    def test_points_that_need_more_are_refused_once_two_sizes_have_run(self, views: int) -> None:
        config = study_of(**self.SIZES, budget={"trials": 12})
        search = search_of(config, memory_bytes=self.bytes_of(config, views) + 1)
        ran = [proposal.point["crops.views"] for proposal in drive(search)]
        assert len(ran) == 12
        assert max(ran[2:]) <= views
        assert infeasible(search)
        for record in infeasible(search):
            needed, limit = self.bytes_of(config, record.point["crops.views"]), search.budget.memory_bytes
            assert record.reason == f"would need about {needed / 1e9:.3g} GB of memory, of {limit / 1e9:.3g} GB"

    def test_one_size_tells_nothing_of_others(self) -> None:
        space = {"perturbation.epsilon": {"float": [0.01, 0.05]}, "pretraining.epochs": 4}
        search = search_of(study_of(space=space, constraints=[], budget={"trials": 5}), memory_bytes=1.0)
        assert len(drive(search)) == 5
        assert infeasible(search) == []


@pytest.mark.parametrize(
    ("causes", "begun"),
    [
        (["out of memory"] * 3, 3),
        (["not finite"] * 3, 3),
        (["", "out of memory", "out of memory", "out of memory"], 4),
        (["out of memory", "out of memory", "", "out of memory", "out of memory"], 8),
        (["out of memory", "out of memory", "not finite"] * 2, 8),
        ([""] * 3, 8),
    ],
    ids=str,
)
def test_three_failures_of_one_cause_in_a_row_end_the_study_and_nothing_less(causes: list[str], begun: int) -> None:
    search = search_of(study_of(budget={"trials": 8}))
    by_number = dict(enumerate(causes))
    assert len(drive(search, failure=lambda number: by_number.get(number, ""))) == begun
    assert search.over is not None
    assert search.over.kind == ("failed_alike" if begun < 8 else "trials")
    if begun < 8:
        assert "fix the cause" in search.over.text
        assert search.suggest() is None


def test_a_point_that_was_stored_in_part_is_given_up_for_another() -> None:
    """Of a driver that was killed between two keys: the rest would be of another proposal."""
    config = study_of(**{**VIEWS, "constraints": ["crops.views <= 20"]}, budget={"trials": 6})
    storage = InMemoryStorage()
    first = search_of(config, storage)
    begun = drive(first, trials=3)
    half = first.study.ask()
    half._suggest("crops.views", distributions(config.space)["crops.views"])
    again = search_of(config, storage, list(first.records.values()))
    rest = drive(again)
    assert len(begun) + len(rest) == 6
    assert again.study.trials[half.number].state is TrialState.FAIL
    assert half.number not in again.records
    assert all(SearchSpace(config).admits(record.point) for record in again.records.values())


def test_a_study_that_failed_alike_may_be_tried_again() -> None:
    config, storage = study_of(budget={"trials": 5}), InMemoryStorage()
    broken = search_of(config, storage)
    assert len(drive(broken, failure=lambda number: "no GPU")) == 3
    mended = search_of(config, storage, list(broken.records.values()))
    assert mended.over is None
    assert len(drive(mended)) == 2


@pytest.mark.parametrize(("tolerance", "begun"), [(0.01, 5), (0.0, 9)])
def test_a_front_that_no_longer_grows_ends_the_study_where_that_is_asked_for(tolerance: float, begun: int) -> None:
    search = search_of(study_of(budget={"trials": 9, "plateau": {"trials": 4, "tolerance": tolerance}}))
    ran = drive(search, scores=lambda record: {"clean_accuracy": 0.5, "robust_accuracy": 0.25})
    assert len(ran) == begun
    assert search.over is not None
    assert search.over.kind == ("plateau" if begun == 5 else "trials")


class TestInterruption:
    @staticmethod
    def config(sampler: str) -> Any:
        trials = 6 if sampler == "front" else 14
        return study_of(
            sampler,
            search={"sampler": sampler, "startup_trials": 3, "seed": 2, "mo_asha": {"rungs": [0.5], "keep": 0.5}},
            budget={"trials": trials, "crop_passes": 60 * PER_VIEW},
        )

    @pytest.mark.parametrize(
        ("sampler", "lost"), [("random", False), ("random", True), ("tpe", False), ("tpe", True), ("front", False)]
    )
    def test_a_search_made_anew_goes_on_as_one_that_was_never_interrupted(self, sampler: str, lost: bool) -> None:
        config, storage = self.config(sampler), InMemoryStorage()
        whole = search_of(config)
        expected = drive(whole)
        first = search_of(config, storage)
        begun = drive(first, trials=4)
        again = search_of(config, InMemoryStorage() if lost else storage, list(first.records.values()))
        assert [*begun, *drive(again)] == expected
        assert again.records == whole.records
        assert again.over == whole.over is not None
        assert [trial.state for trial in again.study.trials] == [trial.state for trial in whole.study.trials]

    @pytest.mark.parametrize("lost", [False, True])
    def test_one_that_was_interrupted_within_a_trial_finishes_that_trial_first(self, lost: bool) -> None:
        config, storage = self.config("tpe"), InMemoryStorage()
        expected = drive(search_of(config))
        first = search_of(config, storage)
        begun = drive(first, trials=5)
        half = first.suggest()
        assert half is not None
        advance(first, half.number)
        again = search_of(config, InMemoryStorage() if lost else storage, list(first.records.values()))
        assert again.records[half.number].rows
        assert [*begun, *drive(again)] == expected

    def test_unfinished_trials_come_first_with_their_points_then_new_ones(self) -> None:
        config, storage = study_of("tpe", budget={"trials": 8}), InMemoryStorage()
        first = search_of(config, storage)
        begun = [first.suggest() for _ in range(4)]
        assert begun[2] is not None
        while not advance(first, begun[2].number).ended:
            pass
        advance(first, 3)
        again = search_of(config, storage, [first.records[number] for number in (2, 3)])  # 0 and 1 left nothing
        proposed = [again.suggest() for _ in range(4)]
        assert proposed[:3] == [begun[0], begun[1], begun[3]]
        assert proposed[3] is not None
        assert proposed[3].number == 4
        assert proposed[3] not in begun

    def test_a_trial_that_has_come_through_an_epoch_goes_on_whatever_is_left(self) -> None:
        storage = InMemoryStorage()
        first = search_of(study_of(**VIEWS, budget={"trials": 5}), storage)
        half = first.suggest()
        assert half is not None
        advance(first, half.number)
        poorer = search_of(
            study_of(**VIEWS, budget={"trials": 1, "crop_passes": 1}), storage, list(first.records.values())
        )
        assert poorer.over is None
        assert poorer.suggest() == half
        while not advance(poorer, half.number).ended:
            pass
        assert poorer.over
        assert poorer.suggest() is None


def test_what_was_taken_over_teaches_the_sampler_and_costs_nothing() -> None:
    config = study_of("tpe", budget={"trials": 4})
    source = search_of(config)
    drive(source)
    taken = [
        TrialRecord(number, record.point, record.rows, record.status, "", f"earlier/{record.trial_id}")
        for number, record in source.records.items()
    ]
    search = search_of(config, records=taken)
    assert search.over is None
    assert {trial.state for trial in search.study.trials} == {TrialState.COMPLETE}
    proposed = drive(search)
    assert [proposal.number for proposal in proposed] == [4, 5, 6, 7]
    assert [proposal.point for proposal in proposed] != [
        proposal.point for proposal in drive(search_of(study_of("tpe", budget={"trials": 8})))[:4]
    ]


def test_what_falls_behind_is_stopped_and_its_share_of_the_budget_goes_to_others() -> None:
    begun: dict[bool, int] = {}
    for halved in (False, True):
        mo_asha = {"rungs": [0.25, 0.5], "keep": 0.5} if halved else None
        search = search_of(
            study_of(
                search={"sampler": "random", "startup_trials": 4, "seed": 0, "mo_asha": mo_asha},
                budget={"trials": 60, "crop_passes": 150 * PER_VIEW},
            )
        )
        begun[halved] = len(drive(search))
        stopped = [record for record in search.records.values() if record.status == "stopped"]
        assert bool(stopped) is halved
        for record in stopped:
            assert len(record.rows) in (1, 2)
            assert record.reason.startswith("fell behind after 0.")
            assert search.study.trials[record.number].state == TrialState.PRUNED
    assert begun[True] > begun[False]


def test_points_of_start_from_are_tried_first() -> None:
    first: list[Point] = [
        {"crops.views": 9, "perturbation.epsilon": 0.02, "pretraining.epochs": 4},
        {"crops.views": 3, "perturbation.epsilon": 0.05, "pretraining.epochs": 4},
    ]
    proposed = drive(search_of(study_of(**VIEWS, start_from=first, budget={"trials": 4})))
    assert [proposal.point for proposal in proposed[:2]] == first
    assert len(proposed) == 4


def test_failures_are_alike_by_kind_and_origin_whatever_they_say() -> None:
    for kinds, over in ((["diverged"] * 3, True), (["diverged", "out_of_memory", "killed"], False)):
        search = search_of(study_of(budget={"trials": 8}))
        for kind in kinds:
            proposal = search.suggest()
            assert proposal is not None
            known = search.records[proposal.number]
            search.ended(known.ended_by("failed", StopReason(kind, f"words of trial {proposal.number}")))  # type: ignore[arg-type]
        assert (search.over is not None and search.over.kind == "failed_alike") is over


def test_a_refusal_says_of_which_kind_it_is() -> None:
    search, _ = TestRefusal.run()
    assert {record.kind for record in infeasible(search)} == {"budget"}


class TestNoPointLeft:
    """Grids and lists end after their last point, and any space of which nothing fits the memory."""

    @staticmethod
    def search(views: list[int], *, memory: int = 1000, records: Sequence[TrialRecord] = (), **given: Any) -> Search:
        space = {"crops.views": {"choice": views}, "pretraining.epochs": 4}
        grid: dict[str, Any] = {"search": {"sampler": "grid"}, "budget": {"trials": len(views)}}
        config = study_of(space=space, constraints=[], **grid | given)
        memory_bytes = TestMemory.bytes_of(config, memory) + 1
        return search_of(config, records=records, memory_bytes=memory_bytes)

    @staticmethod
    def views(proposals: Sequence[Proposal]) -> list[Any]:
        return [proposal.point["crops.views"] for proposal in proposals]

    def test_a_grid_with_a_point_that_needs_too_much_memory(self) -> None:
        search = self.search([2, 4, 6, 8], memory=6)
        assert self.views(drive(search)) == [2, 4, 6]
        assert [record.point["crops.views"] for record in infeasible(search)] == [8]
        assert search.over == StopReason("no_point", "all points have been tried")

    def test_a_grid_of_which_the_budget_pays_only_tried_points(self) -> None:
        search = self.search([2, 4, 40], budget={"trials": 3, "crop_passes": 20 * PER_VIEW})
        assert self.views(drive(search)) == [2, 4]
        assert search.over is not None
        assert search.over.kind in ("budget", "no_point")

    def test_what_fits_behind_many_points_that_do_not(self) -> None:
        views = [2, 4, *range(20, 40), 6, 8]
        search = self.search(views, memory=10)
        assert self.views(drive(search)) == [2, 4, 6, 8]
        assert {record.point["crops.views"] for record in infeasible(search)} == set(range(20, 40))
        assert search.over is not None

    def test_a_grid_goes_on_with_the_points_that_were_not_warm_started(self) -> None:
        source = self.search([2, 4, 6, 8])
        drive(source)
        taken = [
            replace(record, number=number, source=record.trial_id)
            for number, record in enumerate(list(source.records.values())[2:])
        ]
        search = self.search([2, 4, 6, 8], records=taken, budget={"trials": 4})
        assert sorted(self.views(drive(search))) == [2, 4]

    def test_a_space_of_which_nothing_fits(self) -> None:
        search = self.search([4, 6, 8, 10], memory=2, search={"sampler": "random"}, budget={"trials": 40})
        proposed = drive(search)
        assert 2 <= len(proposed) < 40, "memory is known after two sizes"
        assert search.over == StopReason("no_point", "no other point was found that meets the constraints and fits")
        assert all(trial.state.is_finished() for trial in search.study.get_trials())
        resumed = search_of(search.config, search.study._storage, list(search.records.values()))
        assert resumed.suggest() is not None, "with more memory"

    def test_a_list_is_tried_in_order_and_nothing_takes_the_place_of_a_refused_point(self) -> None:
        listed = [{"crops.views": views, "pretraining.epochs": 4} for views in (8, 2, 4)]
        search = self.search(
            [2, 4, 6, 8, 10], memory=5, search={"sampler": "listed"}, start_from=listed[::-1], budget={"trials": 9}
        )
        assert self.views(drive(search)) == [4, 2]
        assert [record.point["crops.views"] for record in infeasible(search)] == [8]
        assert search.over == StopReason("no_point", "all points have been tried")


def test_a_plateau_is_one_of_the_front_with_what_was_taken_over() -> None:
    config = study_of(budget={"trials": 9, "plateau": {"trials": 3, "tolerance": 0.01}})
    source = search_of(study_of(seed=1, budget={"trials": 1}))
    drive(source, scores=lambda record: {"clean_accuracy": 0.9, "robust_accuracy": 0.9})
    taken = [replace(record, source=record.trial_id) for record in source.records.values()]
    search = search_of(config, records=taken)

    def rising(record: TrialRecord) -> dict[str, float]:
        return {"clean_accuracy": record.number / 20, "robust_accuracy": record.number / 20}

    assert len(drive(search, scores=rising)) == 4
    assert search.over is not None
    assert search.over.kind == "plateau"

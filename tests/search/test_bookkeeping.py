import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from asking import Point, ask, ended, run_on_disk, study_of
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sqlalchemy import event

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.bookkeeping import open_study, reconcile, tell
from cfamc_ray.search.storage import open_storage
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord

COMPLETE, FAIL, PRUNED, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING


def asked(config: StudyConfig, trials: int) -> tuple[optuna.Study, list[Point]]:
    """A study of which nobody told how its trials ended."""
    study = open_study(config, InMemoryStorage())
    return study, [ask(study, config)[1] for _ in range(trials)]


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def records_of(config: StudyConfig, points: Sequence[Point], statuses: Sequence[Status]) -> list[TrialRecord]:
    return [
        ended(config, number, point, status)
        for number, (point, status) in enumerate(zip(points, statuses, strict=True))
    ]


def test_the_storage_knows_names_and_directions_of_the_objectives() -> None:
    study = open_study(study_of(objectives={"clean_accuracy": "maximize", "flops": "minimize"}), InMemoryStorage())
    assert study.metric_names == ["clean_accuracy", "flops"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.study_name == "asked"


@pytest.mark.parametrize(
    "objectives",
    [
        {"clean_accuracy": "maximize", "flops": "minimize"},
        {"clean_accuracy": "maximize", "robust_accuracy": "minimize"},
        {"robust_accuracy": "maximize", "clean_accuracy": "maximize"},
        {"clean_accuracy": "maximize"},
        {"clean_accuracy": "maximize", "robust_accuracy": "maximize", "flops": "minimize"},
    ],
    ids=str,
)
def test_a_storage_with_other_objectives_is_refused(objectives: dict[str, str]) -> None:
    storage = InMemoryStorage()
    open_study(study_of(), storage)
    with pytest.raises(InputError) as caught:
        open_study(study_of(objectives=objectives), storage)
    held = {"clean_accuracy": "maximize", "robust_accuracy": "maximize"}
    assert str(caught.value) == f"asked: the storage holds a study with the objectives {held}, not {objectives}"
    assert len(open_study(study_of(), storage).directions) == 2


def test_a_finished_trial_is_told_with_its_objectives_in_order() -> None:
    config = study_of(objectives={"robust_accuracy": "maximize", "flops": "minimize"})
    study, (point,) = asked(config, 1)
    tell(study, 0, config, TrialRecord(0, point, [{"done": True, "flops": 5, "robust_accuracy": 0.25}], "finished"))
    (trial,) = study.trials
    assert (trial.state, trial.values) == (COMPLETE, [0.25, 5.0])


@pytest.mark.parametrize(
    ("status", "state", "violated"),
    [("running", FAIL, 0), ("failed", FAIL, 0), ("stopped", PRUNED, 0), ("infeasible", PRUNED, 1)],
)
def test_a_trial_that_did_not_finish_is_told_without_values_whatever_it_reported(
    status: Status, state: TrialState, violated: int
) -> None:
    config = study_of()
    study, (point,) = asked(config, 1)
    tell(study, 0, config, ended(config, 0, point, status))
    (trial,) = study.trials
    assert (trial.state, trial.values) == (state, None)
    assert sum(constraint > 0 for constraint in trial.constraints.values()) == violated


@pytest.mark.parametrize("status", ["stopped", "infeasible"])
def test_tpe_learns_from_a_trial_that_was_pruned_and_not_from_one_that_failed(status: Status) -> None:
    config = study_of("tpe")
    further = []
    endings: list[Status] = [status, "failed"]
    for ending in endings:
        study, points = asked(config, 8)
        finished: list[Status] = ["finished"] * 4
        assert reconcile(study, config, records_of(config, points, [*finished, *[ending] * 4])) == []
        further.append([ask(study, config)[1] for _ in range(3)])
    assert further[0] != further[1]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_missing_objective_is_told_as_failed_never_as_a_number(value: float | None) -> None:
    config = study_of()
    study, (point,) = asked(config, 1)
    rows = [{"done": True, "clean_accuracy": 0.5, "robust_accuracy": value}]
    tell(study, 0, config, TrialRecord(0, point, rows, "finished"))
    assert (states(study), study.trials[0].values) == ([FAIL], None)


def test_a_trial_that_left_no_record_is_told_as_failed() -> None:
    config = study_of()
    study, _ = asked(config, 1)
    tell(study, 0, config, None)
    assert states(study) == [FAIL]


def test_what_nobody_told_is_told_from_the_folders_and_the_rest_goes_on() -> None:
    config = study_of()
    study, points = asked(config, 7)
    statuses: list[Status] = ["finished", "stopped", "failed", "running", "infeasible", "finished"]
    records = records_of(config, points[:6], statuses)
    records[5] = TrialRecord(5, points[5], [{"done": True, "clean_accuracy": 0.5}], "finished")
    assert reconcile(study, config, records) == [3, 6]  # of 6 nothing was written yet
    assert states(study) == [COMPLETE, PRUNED, FAIL, RUNNING, PRUNED, FAIL, RUNNING]
    assert study.trials[0].values == records[0].values(config.objectives)


def test_what_was_told_stays_as_it_is() -> None:
    config = study_of()
    study, points = asked(config, 2)
    records = records_of(config, points, ["finished", "failed"])
    for record in records:
        tell(study, record.number, config, record)
    before = study.trials
    assert reconcile(study, config, records) == []
    assert study.trials == before


def test_reconciling_twice_changes_nothing_more() -> None:
    config = study_of()
    study, points = asked(config, 3)
    records = records_of(config, points, ["finished", "failed", "running"])
    assert reconcile(study, config, records) == [2]
    before = study.trials
    assert reconcile(study, config, records) == [2]
    assert study.trials == before


def test_a_lost_database_is_rebuilt_from_the_trials(tmp_path: Path) -> None:
    config = study_of("tpe")
    study, points = asked(config, 6)
    statuses: list[Status] = ["finished", "failed", "running", "finished", "stopped", "infeasible"]
    records = records_of(config, points, statuses)
    unfinished = reconcile(study, config, records)
    rebuilt = open_study(config, open_storage(tmp_path))
    assert reconcile(rebuilt, config, records) == unfinished == [2]
    assert states(rebuilt) == states(study) == [COMPLETE, FAIL, RUNNING, COMPLETE, PRUNED, PRUNED]
    for old, new in zip(study.trials, rebuilt.trials, strict=True):
        assert (new.number, new.params, new.values) == (old.number, old.params, old.values)
        assert (new.distributions, new.constraints) == (old.distributions, old.constraints)


def test_a_rebuilt_database_leads_to_the_same_further_points(tmp_path: Path) -> None:
    config = study_of("tpe")
    study, points = asked(config, 8)
    records = records_of(config, points, ["finished"] * 8)
    rebuilt = open_study(config, open_storage(tmp_path))
    assert reconcile(study, config, records) == reconcile(rebuilt, config, records) == []
    assert [ask(rebuilt, config) for _ in range(3)] == [ask(study, config) for _ in range(3)]


def test_a_trial_that_was_lost_altogether_leaves_a_failed_row_and_the_others_their_numbers() -> None:
    config = study_of()
    _, points = asked(config, 4)
    records = [ended(config, number, points[number]) for number in (1, 3)]
    study = open_study(config, InMemoryStorage())
    assert reconcile(study, config, records) == []
    assert states(study) == [FAIL, COMPLETE, FAIL, COMPLETE]
    assert [study.trials[number].params for number in (1, 3)] == [
        {key: value for key, value in points[number].items() if key != "pretraining.epochs"} for number in (1, 3)
    ]


def test_no_row_is_left_running_after_all_trials_ended(tmp_path: Path) -> None:
    config = study_of()
    run_on_disk(config, 3, tmp_path)
    study = open_study(config, open_storage(tmp_path))
    points = [ask(study, config)[1] for _ in range(3)]
    records = [ended(config, number, point) for number, point in enumerate(points, start=3)]
    again = open_study(config, open_storage(tmp_path))
    assert reconcile(again, config, records) == []
    assert RUNNING not in states(again)
    assert len(states(again)) == 6


def test_trials_that_were_lost_follow_those_that_the_database_knows(tmp_path: Path) -> None:
    config = study_of()
    study, points = asked(config, 6)
    statuses: list[Status] = ["finished", "stopped", "finished", "failed", "infeasible", "finished"]
    records = records_of(config, points, statuses)
    partial = open_study(config, open_storage(tmp_path))
    assert reconcile(partial, config, records[:2]) == []
    assert reconcile(partial, config, records) == []
    assert reconcile(study, config, records) == []
    assert [trial.number for trial in partial.trials] == list(range(6))
    for old, new in zip(study.trials, open_study(config, open_storage(tmp_path)).trials, strict=True):
        assert (new.state, new.params, new.values) == (old.state, old.params, old.values)
        assert (new.distributions, new.constraints) == (old.distributions, old.constraints)
        assert new.datetime_complete is not None
    assert ask(partial, config)[0] == 6


def test_a_rebuilt_database_takes_as_many_statements_for_many_trials_as_for_few(tmp_path: Path) -> None:
    config = study_of()
    _, points = asked(config, 40)
    counts = []
    for trials in (4, 40):
        folder = tmp_path / str(trials)
        folder.mkdir()
        storage = open_storage(folder)
        study = open_study(config, storage)
        statements: list[str] = []
        event.listen(storage.engine, "before_cursor_execute", lambda *given, into=statements: into.append(given[2]))  # type: ignore[attr-defined]
        statuses: list[Status] = ["finished", "failed", "stopped", "infeasible"]
        assert reconcile(study, config, records_of(config, points[:trials], statuses * (trials // 4))) == []
        assert len(study.trials) == trials
        counts.append(len(statements))
    assert counts[1] <= counts[0] + 2

"""Trials whose process was lost: started again as often as the study allows, whatever Tune would do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from ray import cloudpickle
from ray.exceptions import RayTaskError

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.host.files import DiskFullError
from cfamc_ray.orchestration import callback
from cfamc_ray.orchestration.callback import StudyCallback
from cfamc_ray.orchestration.crashes import NOTHING_SAID
from cfamc_ray.search.search import Search
from cfamc_ray.store.records import TrialFolder, write_config


class Unseen:
    """A view that nobody looks at."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def show(self, *_: object) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    config = StudyConfig.model_validate(
        {
            "name": "lost",
            "space": {"crops.views": {"int": [2, 40]}},
            "budget": {"trials": 2},
            "resources": {"restarts": 2},
        }
    )
    write_config(tmp_path, config)
    return Search(config, InMemoryStorage(), work_of=training_work)


def lose(watcher: StudyCallback, number: int, point: Any, error_file: Path | None = None) -> None:
    """Tune says that the trial is at its end, for its process is."""
    trial: Any = SimpleNamespace(config={"number": number, "point": dict(point)}, pickled_error_file=error_file)
    watcher.on_trial_error(0, [], trial)


def raised(error: Exception, folder: Path) -> Path:
    """What Tune keeps of an error that a trial's process raised."""
    path = folder / "error.pkl"
    path.write_bytes(cloudpickle.dumps(RayTaskError("step", f"Traceback\n  {error!r}\n", error)))
    return path


def test_a_trial_is_proposed_again_with_its_number_and_point_until_it_was_often_enough(
    search: Search, tmp_path: Path
) -> None:
    watcher: Any = StudyCallback(search, tmp_path, Unseen())  # type: ignore[arg-type]
    first = search.suggest()
    assert first is not None
    for _ in range(2):
        lose(watcher, *first)
        assert not TrialFolder(tmp_path, first.number).closed
        assert search.suggest() == first
    lose(watcher, *first)
    record = TrialFolder(tmp_path, first.number).read()
    assert record is not None
    assert (record.status, record.reason) == ("failed", NOTHING_SAID)
    assert search.records[first.number].status == "failed"
    second = search.suggest()
    assert second is not None
    assert second.number == first.number + 1


def test_its_epochs_are_kept_and_it_goes_on_although_the_budget_is_spent(search: Search, tmp_path: Path) -> None:
    watcher: Any = StudyCallback(search, tmp_path, Unseen())  # type: ignore[arg-type]
    first, second = search.suggest(), search.suggest()
    assert first is not None
    assert second is not None
    assert search.suggest() is None, "the budget is two trials"
    folder = TrialFolder(tmp_path, first.number)
    folder.open(first.point)
    folder.write_rows([{"epoch": 1, "done": False, "clean_accuracy": 0.5, "robust_accuracy": 0.25, "flops": 1}])
    lose(watcher, *first)
    assert search.suggest() == first
    assert len(search.records[first.number].rows) == 1


def test_a_trial_that_noted_its_own_end_is_not_started_again(search: Search, tmp_path: Path) -> None:
    watcher: Any = StudyCallback(search, tmp_path, Unseen())  # type: ignore[arg-type]
    first = search.suggest()
    assert first is not None
    folder = TrialFolder(tmp_path, first.number)
    folder.open(first.point)
    folder.close("failed", "loss is not finite")
    lose(watcher, *first)
    record = folder.read()
    assert record is not None
    assert record.reason == "loss is not finite"
    following = search.suggest()
    assert following is not None
    assert following.number != first.number


def test_the_reason_is_what_python_raised_or_wrote_when_it_crashed(search: Search, tmp_path: Path) -> None:
    search.config.resources.__dict__["restarts"] = 0
    watcher: Any = StudyCallback(search, tmp_path, Unseen())  # type: ignore[arg-type]
    first, second = search.suggest(), search.suggest()
    assert first is not None
    assert second is not None
    lose(watcher, *first, error_file=raised(RuntimeError("CUDA error"), tmp_path))
    folder = TrialFolder(tmp_path, second.number)
    folder.open(second.point)
    report = 'Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n  File "a.py", line 7 in b\n'
    (folder.path / "crash-0.txt").write_text(report)
    lose(watcher, *second)
    reasons = [search.records[number].reason for number in (first.number, second.number)]
    assert reasons == [
        "its process ended: RuntimeError('CUDA error')",
        "its process crashed: Aborted in b (a.py, line 7)",
    ]


def test_a_full_disk_fails_no_trial_and_halts_the_study(search: Search, tmp_path: Path) -> None:
    watcher: Any = StudyCallback(search, tmp_path, Unseen())  # type: ignore[arg-type]
    first = search.suggest()
    assert first is not None
    folder = TrialFolder(tmp_path, first.number)
    folder.open(first.point)
    lose(watcher, *first, error_file=raised(DiskFullError("no room"), tmp_path))
    assert not folder.closed
    assert search.halted is not None
    assert search.halted.text == f"{tmp_path}: the disk is full; make room there, then re-run with --resume"
    assert search.suggest() is None


def test_what_lost_trials_occupied_is_freed_and_a_person_is_told_why_the_study_waits(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, freed, view = {"CPU": 2.0}, list[int](), Unseen()
    monkeypatch.setattr("ray.cluster_resources", lambda: there)
    monkeypatch.setattr(callback, "remove_orphaned_groups", lambda: freed.append(1))
    monkeypatch.setattr(callback, "REFRESH_SECONDS", 0.0)
    watcher: Any = StudyCallback(search, tmp_path, view)  # type: ignore[arg-type]
    watcher.on_step_end(0, [])
    assert not freed, "nothing was lost yet"
    first = search.suggest()
    assert first is not None
    lose(watcher, *first)
    for cpus in (2.0, 0.0, 0.0, 1.0):
        there["CPU"] = cpus
        watcher.on_step_end(0, [])
    assert len(freed) == 4
    assert view.said == [
        "The cluster has 0 CPUs left, but 1 are needed at once: waiting for machines.",
        "The cluster is large enough again.",
    ]

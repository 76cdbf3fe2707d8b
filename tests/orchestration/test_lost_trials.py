"""Trials whose process was lost: started again as often as the study allows, whatever Tune would do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.evaluation.cost import training_work
from cfamc_ray.orchestration.run import _Watcher
from cfamc_ray.search.search import Search
from cfamc_ray.study.records import TrialFolder, write_config


class Unseen:
    """A view that nobody looks at."""

    def show(self, _: object) -> None:
        """Nothing."""


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


def lose(watcher: _Watcher, number: int, point: Any) -> None:
    """Tune says that the trial is at its end, for its process is."""
    config = {"number": number, "point": dict(point)}
    trial: Any = SimpleNamespace(config=config, get_error=lambda: "Traceback\n  the actor died\n")
    watcher.on_trial_error(0, [], trial)


def test_a_trial_is_proposed_again_with_its_number_and_point_until_it_was_often_enough(
    search: Search, tmp_path: Path
) -> None:
    watcher: Any = _Watcher(search, tmp_path, Unseen())  # type: ignore[arg-type]
    first = search.suggest()
    assert first is not None
    for _ in range(2):
        lose(watcher, *first)
        assert not TrialFolder(tmp_path, first.number).closed
        assert search.suggest() == first
    lose(watcher, *first)
    record = TrialFolder(tmp_path, first.number).read()
    assert record is not None
    assert (record.status, record.reason) == ("failed", "its process ended: the actor died")
    assert search.records[first.number].status == "failed"
    second = search.suggest()
    assert second is not None
    assert second.number == first.number + 1


def test_its_epochs_are_kept_and_it_goes_on_although_the_budget_is_spent(search: Search, tmp_path: Path) -> None:
    watcher: Any = _Watcher(search, tmp_path, Unseen())  # type: ignore[arg-type]
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
    watcher: Any = _Watcher(search, tmp_path, Unseen())  # type: ignore[arg-type]
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

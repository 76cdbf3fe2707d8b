"""What is read and shown at each event of a run."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.progress import Progress
from cfamc_ray.orchestration.callback import StudyCallback
from cfamc_ray.store.records import TrialFolder, TrialRecord

POINT = {"crops.views": 4}
CONFIG = StudyConfig.model_validate(
    {"name": "watched", "space": {"crops.views": {"int": [2, 40]}}, "budget": {"trials": 9}}
)


class Shown:
    """What a person was shown last."""

    def say(self, line: str) -> None:
        pytest.fail(line)

    def show(self, progress: Progress, records: Sequence[TrialRecord]) -> None:
        """Keep it."""
        self.finished, self.numbers = progress.finished, [record.number for record in records]


def test_an_event_reads_its_own_trial_and_trials_are_shown_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"epoch": 1, "done": True, "clean_accuracy": 0.5, "robust_accuracy": 0.25, "crop_passes": 100}
    for number in (0, 1, 4):
        folder = TrialFolder(tmp_path, number)
        folder.open(POINT)
        folder.write_rows([row])
    view = Shown()
    search: Any = SimpleNamespace(config=CONFIG)
    watcher: Any = StudyCallback(search, tmp_path, view)  # type: ignore[arg-type]
    read, numbers = TrialFolder.read, list[int]()
    monkeypatch.setattr(TrialFolder, "read", lambda self: numbers.append(self.number) or read(self))  # type: ignore[func-returns-value]
    for number in (5, 2, 2):
        trial = SimpleNamespace(config={"number": number, "point": POINT})
        watcher.on_trial_start(0, [], trial)
        watcher.on_trial_result(0, [], trial, {})
    watcher.on_step_end(0, [])
    assert numbers == [5, 5, 2, 2, 2, 2]
    assert (view.numbers, view.finished) == ([0, 1, 2, 4, 5], 3)
    watcher.events.close()

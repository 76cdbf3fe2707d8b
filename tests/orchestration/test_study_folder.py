"""A machine that does not see the study's folder trains nothing."""

from pathlib import Path
from threading import Timer

import pytest

from cfamc_ray.orchestration import trainables
from cfamc_ray.orchestration.trainables import await_folder


def test_a_folder_that_is_not_there_is_refused_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainables, "SEEN_SECONDS", 0.0)
    monkeypatch.setattr(trainables, "LOOK_SECONDS", 0.001)
    with pytest.raises(FileNotFoundError, match="every machine of the cluster must see the study's folder"):
        await_folder(tmp_path / "study")
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_seen_later_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables, "LOOK_SECONDS", 0.001)
    timer = Timer(0.05, (tmp_path / "study.yaml").touch)
    timer.start()
    await_folder(tmp_path)
    timer.join()
    assert (tmp_path / "study.yaml").exists()

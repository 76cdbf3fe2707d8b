import json
import platform
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from made_by_hand import row, study

from cfamc_ray.store.environment import PACKAGES, environment, read_environment, write_environment
from cfamc_ray.store.records import TrialFolder, write_config


def test_date_machine_and_versions_are_those_of_now_and_here() -> None:
    found = environment()
    date = datetime.fromisoformat(found["date"])
    assert abs(datetime.now().astimezone() - date) < timedelta(minutes=1)
    assert date.tzinfo is not None
    assert found["python"] == platform.python_version()
    assert found["cores"] >= 1
    assert platform.system() in found["platform"]
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["versions"]) <= set(PACKAGES)


def test_it_can_be_written_as_json() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(package: str) -> str:
        if package == "ray":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("cfamc_ray.store.environment.version", installed)
    assert "ray" not in environment()["versions"]
    assert "torch" in environment()["versions"]


def test_a_resumed_study_keeps_when_it_began_and_notes_what_had_ended(tmp_path: Path) -> None:
    write_config(tmp_path, study())
    write_environment(tmp_path, cluster="here")
    first = read_environment(tmp_path)
    assert (first["begun"], first["ended_before"], first["cluster"]) == (first["date"], [], "here")
    for number, done in ((0, True), (1, False)):
        trial = TrialFolder(tmp_path, number)
        trial.open({"crops.views": 2, "perturbation.epsilon": 0.01})
        trial.write_rows([row(1, done=done)])
    write_environment(tmp_path)
    second = read_environment(tmp_path)
    assert second["begun"] == first["begun"]
    assert second["ended_before"] == ["trial_00000"]
    assert "cluster" not in second


def test_of_a_study_without_that_note_the_old_date_is_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"date": "2026-01-01T10:00:00+00:00"}')
    write_environment(tmp_path)
    assert read_environment(tmp_path)["begun"] == "2026-01-01T10:00:00+00:00"

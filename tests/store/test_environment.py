import json
import platform
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

from cfamc_ray.store.environment import PACKAGES, environment


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

"""The page on components of one's own: its module runs through Ray as it stands, and no file of the package changes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cfamc_ray.store.records import read_trials

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The page's module and space in a working directory outside the checkout."""
    (tmp_path / "my_components.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("\n".join(blocks("yaml")), encoding="utf-8")
    return tmp_path


def python(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=project, env=environment
    )


@pytest.mark.long
def test_a_study_of_one_component_of_each_kind_runs_through_ray(project: Path) -> None:
    done = python(project, "-m", "cfamc_ray.tune", "--space", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = """
from cfamc_ray import open_study
study = open_study("runs/mine")
trials = study.trials
print(*sorted(set(trials["status"])), len(trials), len(study.front) >= 1)
print(*(name in trials for name in ("feature_size", "loss.uniformity_weight", "encoder.architecture.depth")))
"""
    shown = python(project, "-c", seen)
    assert shown.stdout.split() == ["finished", "2", "True", "True", "True", "True"], shown.stdout + shown.stderr
    for record in read_trials(project / "runs" / "mine"):
        row, weight = record.rows[-1], record.point["loss.uniformity_weight"]
        assert row["loss"] == pytest.approx(row["spread"] + weight * row["uniformity"], rel=1e-5)
        assert row["uniformity"] < 0 < row["spread"]
        assert row["feature_size"] > 0
        assert 1 <= row["effective_rank"] <= 8
        assert row["crop_passes"] == 2 * 40 * (1 + 1), "an update and an attack pass of each crop"
        assert row["validation_images"] == 20


def test_its_kinds_are_all_kinds_that_there_are() -> None:
    registered = re.findall(r"^@([A-Z_]+)\.register", PAGE, flags=re.M)
    registries = set()
    for path in (ROOT / "cfamc_ray" / "config").glob("*.py"):
        registries |= set(re.findall(r"^([A-Z_]+) = (?:Registry\[\w+\]|_Measures)\(", path.read_text(), flags=re.M))
    assert set(registered) == registries
    assert len(registered) == len(registries)


def test_a_study_of_unknown_components_says_what_is_missing(project: Path) -> None:
    space = (project / "mine.yaml").read_text(encoding="utf-8").replace("plugins: [my_components]\n", "")
    (project / "mine.yaml").write_text(space, encoding="utf-8")
    done = python(project, "-m", "cfamc_ray.tune", "--space", "mine.yaml", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no sampler 'quasi_random'" in done.stderr
    assert "plugins" in done.stderr
    assert "Traceback" not in done.stderr

"""A component of somebody's own module, in every process that handles a study."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from cfamc_ray.store.records import read_trials
from cfamc_ray.store.tested import parse_tests

ROOT = Path(__file__).parent.parent
PLUGIN = '''
"""A loss with a key of its own."""

from typing import ClassVar, Literal

from pydantic import Field

from cfamc_ray.config.losses import LOSSES, LossConfig
from cfamc_ray.config.types import Real


@LOSSES.register
class SpreadConfig(LossConfig):
    """Mean cosine similarity of all embeddings of a view."""

    implementation: ClassVar[str] = "my_loss:Spread"
    terms: ClassVar[tuple[str, ...]] = ("similarity",)

    name: Literal["spread"] = "spread"
    strength: Real = Field(default=1.0, gt=0)
    """Weight of the similarity."""

    def flops(self, views, images, width):
        return 6.0 * views * images**2 * width


class Spread:
    def __init__(self, config):
        self.config = config

    def __call__(self, z_VBD, labels_B=None):
        from cfamc_ray.method.losses import LossValue

        similarity = (z_VBD @ z_VBD.mT).mean()
        return LossValue(self.config.strength * similarity, (similarity,))
'''
SPACE = """
name: mine
plugins: [my_loss]
budget: {trials: 2}
trial:
  data: {name: digits, pretrain_images: 40, probe_images: 40, validation_images: 20, image_size: 16}
  encoder: {width: 4, prefeature_width: 4, hidden_width: 4, embedding_width: 4}
  crops: {views: 2, size: 16}
  loss: {name: spread}
  pretraining: {batch_images: 10, epochs: 1}
  evaluation: {attack: {steps: 1}, attacked_images: 10}
space:
  loss.strength: {choice: [0.5, 2.0]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working directory with the module and a space that names it."""
    (tmp_path / "my_loss.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def python(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python in the project's folder, which is not on the path by itself: neither is that of `-m`'s module."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=project, env=environment
    )


def tune(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(project, "-m", "cfamc_ray.tune", "--space", "mine.yaml", *words)


def rows(project: Path, name: str = "mine") -> list[tuple[str, float | None]]:
    """Status of each trial of a study and the loss's term that its last row has."""
    return [
        (record.status, record.rows[-1].get("similarity") if record.rows else None)
        for record in read_trials(project / "runs" / name)
    ]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            "gone",
            ": plugins: gone cannot be imported (ModuleNotFoundError: No module named 'gone'); name a module that",
        ),
        ("broken", ": plugins: broken cannot be imported (ValueError: first line)\n"),
    ],
)
def test_one_that_cannot_be_imported_is_refused_in_one_line(project: Path, plugin: str, message: str) -> None:
    (project / "broken.py").write_text("raise ValueError('first line\\nsecond line')\n", encoding="utf-8")
    done = tune(project, "--dry-run", "--set", f"plugins=[{plugin}]")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("mine.yaml")
    assert message in done.stderr


def test_its_component_can_be_chosen_in_place_of_one_with_keys_of_its_own(project: Path) -> None:
    space = SPACE.replace("loss: {name: spread}", "loss: {name: emp_ssl, invariance_weight: 100}")
    assert space != SPACE
    (project / "mine.yaml").write_text(space, encoding="utf-8")
    done = tune(project, "--dry-run", "--set", "loss.name=spread")
    assert done.returncode == 0, done.stderr
    (project / "mine.yaml").write_text(space.replace("plugins: [my_loss]\n", ""), encoding="utf-8")
    done = tune(project, "--dry-run", "--set", "loss.name=spread", "--set", "plugins=[my_loss]")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_it_can_be_given_to_the_api_and_to_the_commands(project: Path) -> None:
    (project / "mine.yaml").write_text(SPACE.replace("plugins: [my_loss]\n", ""), encoding="utf-8")
    done = tune(project, "--dry-run")
    assert done.returncode == 2
    assert "there is no loss 'spread'" in done.stderr
    assert tune(project, "--dry-run", "--set", "plugins=[my_loss]").returncode == 0
    program = """
        import cfamc_ray
        from cfamc_ray.lifecycle.plans import plan_study

        print(plan_study("mine.yaml", plugins=["my_loss"]).config.plugins)
        study = cfamc_ray.train(
            "mine.yaml", plugins=["my_loss"], overrides=["loss.strength=3", "resources.cpus_per_worker=1"], device="cpu"
        )
        again = cfamc_ray.train(study.folder / "trial_00000", overrides=["resources.cpus_per_worker=1"], device="cpu")
        print(study.trials["status"].tolist(), again.trials["status"].tolist(), again.config.plugins)
        try:
            plan_study("mine.yaml", plugins="my_loss")
        except cfamc_ray.InputError as error:
            print(error)
    """
    done = python(project, "-c", dedent(program))
    assert done.stdout.splitlines() == [
        "('my_loss',)",
        "['finished'] ['finished'] ('my_loss',)",
        "plugins: write a list, ['my_loss']",
    ], done.stderr


@pytest.mark.long
def test_a_study_is_searched_opened_resumed_and_evaluated(project: Path) -> None:
    done = tune(project)
    assert done.returncode == 0, done.stderr + (project / "runs" / "mine" / "ray.log").read_text()
    found = rows(project)
    assert [status for status, _ in found] == ["finished"] * 2
    assert all(isinstance(similarity, float) for _, similarity in found)
    program = """
        import cfamc_ray

        study = cfamc_ray.open_study("runs/mine").resume(overrides=["budget.trials=3"])
        print(study.trials["status"].tolist())
        quick = ["images=20", "attack.steps=1", "attack.restarts=1", "epsilons=[4/255]", "autoattack_images=0",
                 "autoattack_epsilons=[]"]
        best = study.folder / study.front["trial_id"][0]
        print(cfamc_ray.evaluate(best, overrides=quick, device="cpu").results["attack"].tolist()[0])
    """
    done = python(project, "-c", dedent(program))
    assert done.stdout.splitlines() == [str(["finished"] * 3), "none"], done.stderr


@pytest.mark.long
def test_workers_import_it_before_they_read_a_config_that_does_not_use_it_yet(project: Path) -> None:
    """The trial's own loss is the package's; only points of the space name the plugin's."""
    space = SPACE.replace("loss: {name: spread}", "loss: {name: emp_ssl}").replace(
        "loss.strength: {choice: [0.5, 2.0]}", "loss.name: {choice: [spread]}"
    )
    (project / "mine.yaml").write_text(space, encoding="utf-8")
    done = tune(project, "--trials", "1")
    assert done.returncode == 0, done.stderr
    assert [status for status, _ in rows(project)] == ["finished"]


@pytest.mark.long
def test_each_of_several_workers_imports_it(project: Path) -> None:
    done = tune(project, "--trials", "1", "--set", "resources.workers_per_trial=2")
    assert done.returncode == 0, done.stderr
    assert [status for status, _ in rows(project)] == ["finished"]


@pytest.mark.long
def test_a_confirmation_imports_it(project: Path) -> None:
    confirm = "confirm={seeds: 1, images: 20, attacked_images: 10, attacks: [pgd20]}"
    done = tune(project, "--trials", "1", "--set", confirm)
    assert done.returncode == 0, done.stderr
    tests = parse_tests((project / "runs" / "mine" / "confirm" / "trial_00000" / "test.json").read_text())
    assert tests
    assert not any(test.problem for test in tests.values())
    assert all(set(test.accuracies) == {"none", "pgd", "pgd_margin"} for test in tests.values())


@pytest.mark.long
def test_the_cells_of_a_scaling_study_import_it(project: Path) -> None:
    space = SPACE.partition("space:")[0].replace("budget: {trials: 2}\n", "")
    system = "system: {grid: {workers: [1, 2]}, minibatches: 1, repeats: 1}"
    (project / "cells.yaml").write_text(f"{space}{system}\n", encoding="utf-8")
    program = 'import cfamc_ray; print(len(cfamc_ray.run_scaling("cells.yaml").run.measured))'
    done = python(project, "-c", program)
    assert done.stdout == "2\n", done.stderr

"""cfamc interpolate: encoders between trials of a study that share their first epochs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import cfamc_ray
from cfamc_ray.cli.main import main
from cfamc_ray.config.stages import fork_of
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.lifecycle import interpolation
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.interpolations import read_interpolations
from cfamc_ray.store.layout import INTERPOLATION
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.training.recording import run_recorded

TRUNK = {"pretraining.replays": 1, "perturbation.epsilon": 2 / 255}
POINTS = [
    TRUNK,
    fork_of(TRUNK, {"pretraining.replays": 2, "perturbation.epsilon": 8 / 255}, 1),
    {"pretraining.replays": 2, "perturbation.epsilon": 2 / 255},
]
NAME = "interpolation_00000_00001_0.5"
TRIAL: dict[str, Any] = {
    "data": {"name": "digits", "pretrain_images": 20, "probe_images": 50, "validation_images": 40},
    "crops": {"views": 2, "size": 16},
    "encoder": {"width": 4, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 4},
    "pretraining": {"epochs": 2, "batch_images": 5, "precision": "float32"},
    "evaluation": {"attacked_images": 10, "every_epochs": 2, "head": {"iterations": 20}, "epsilon": 8 / 255},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a trial, a fork of it and another trial."""
    folder = tmp_path_factory.mktemp("interpolate") / "forks"
    folder.mkdir()
    config = StudyConfig.model_validate(
        {
            "name": "forks",
            "search": {"fork": {"at": [0.5], "change": list(TRUNK)}},
            "trial": TRIAL,
            "space": {"pretraining.replays": {"int": [1, 4]}, "perturbation.epsilon": {"float": [0, "16/255"]}},
        }
    )
    write_config(folder, config)
    for number, point in enumerate(POINTS):
        assert [*run_recorded(config, TrialFolder(folder, number), point, DistributedContext())][-1]["done"]
    return folder


@pytest.fixture
def study(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "forks"))


def test_siblings_are_interpolated_measured_and_kept(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpolate", str(study)]) == 0
    out = capsys.readouterr().out
    assert f"{NAME}: " in out
    assert "1 interpolation between trials with common first epochs" in out
    (made,) = read_interpolations(study)
    assert (made.first, made.second, made.share) == (0, 1, 0.5)
    trunk, fork, _ = read_trials(study)
    assert made.row["crop_passes"] == trunk.value("crop_passes") + fork.paid("crop_passes")
    assert [point["l2"] for point in made.row["operating_points"]] == [p["l2"] for p in trunk.operating_points]
    first, second, between = (
        cfamc_ray.load_encoder(study / name / "encoder.safetensors").state_dict()
        for name in ("trial_00000", "trial_00001", NAME)
    )
    weight = "backbone.stem.weight"
    torch.testing.assert_close(between[weight], (first[weight] + second[weight]) / 2)
    assert not torch.equal(first[weight], second[weight])
    classifier = cfamc_ray.load_classifier(study / NAME, l2=made.row["operating_points"][0]["l2"])
    assert classifier(torch.rand(2, 3, 16, 16)).shape == (2, 10)


def test_the_same_command_makes_the_same_numbers_and_nothing_twice(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["interpolate", str(study), "--share", "0.25", "--trials", "1", "0"]
    assert main(words) == 0
    before = capsys.readouterr().out.splitlines()
    (made,) = read_interpolations(study)
    shutil.rmtree(study / made.name)
    assert main(words) == 0
    (again,) = read_interpolations(study)
    assert {**again.row, "eval_seconds": 0} == {**made.row, "eval_seconds": 0}
    capsys.readouterr()
    monkeypatch.setattr(interpolation, "_measured", lambda *_: pytest.fail("it is there already"))
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == before[1:]


def test_one_that_was_cut_short_is_made_again(study: Path) -> None:
    assert main(["interpolate", str(study), "--quiet"]) == 0
    file = study / NAME / INTERPOLATION
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    assert read_interpolations(study) == []
    assert main(["interpolate", str(study), "--quiet"]) == 0
    again = json.loads(file.read_text())["row"]
    assert again["operating_points"] == json.loads(whole)["row"]["operating_points"]


def test_python_and_the_report_show_them_and_evaluate_takes_them(study: Path) -> None:
    front = cfamc_ray.open_study(study).interpolate(shares=[0.5])
    for trial in study.glob("trial_*"):
        (trial / "encoder.safetensors").unlink()  # as where only the interpolation is on the front
    assert list(front.columns[:3]) == ["first", "second", "share"]
    page = cfamc_ray.open_study(study).report().read_text()
    assert "1 interpolation between trials with common first epochs" in page
    found = cfamc_ray.evaluate(
        study / NAME, overrides=["images=10", "attacked_images=5", "autoattack_images=0", "head.iterations=20"]
    )
    assert found.run.name == NAME
    assert found.path.parent == study.resolve() / NAME / "evaluations"
    assert found.record["encoder"] == str(study.resolve() / NAME / "encoder.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "1"], "share 1: must be between 0 and 1"),
        (["--trials", "0", "2"], "no two of these trials whose encoders are kept share their first epochs"),
        (["--trials", "0", "7"], "there is no encoder of trial 7"),
    ],
)
def test_what_cannot_be_interpolated_is_said(
    study: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", str(study), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpolate", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err

"""Studies whose project is moved, copied or mirrored go on with the same images, and with no others."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_train_command import Said, said_by

from cfamc_ray import scale, tune
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.train import main as train

pytestmark = pytest.mark.usefixtures("nothing_is_drawn", "few_points_are_checked")

SPACE: dict[str, Any] = {
    "name": "mine",
    "search": {"sampler": "random"},
    "trial": {
        "data": {"pretrain_images": 20, "probe_images": 20, "validation_images": 10},
        "crops": {"size": 8},
        "encoder": {"width": 4, "prefeature_width": 4, "hidden_width": 4, "embedding_width": 4},
        "pretraining": {"batch_images": 10, "epochs": 1, "replays": 1, "precision": "float32"},
        "evaluation": {"attack": {"steps": 1}, "attacked_images": 10},
    },
    "space": {"crops.views": {"choice": [2, 3]}},
}
TRAIN_IMAGES, TEST_IMAGES, CLASSES = 40, 10, 2


def write_npz(path: Path, *, seed: int) -> None:
    draw = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, images in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        arrays[f"x_{split}"] = draw.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(images) % CLASSES
    np.savez(path, **arrays)


def write_folder(path: Path, *, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for number in range(TRAIN_IMAGES + TEST_IMAGES):
        file = path / f"class_{number % CLASSES}" / f"{seed}-{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)


class Project:
    """A folder with a space, its images and its studies."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind

    @property
    def images(self) -> Path:
        return self.folder / "data" / ("pictures" if self.kind == "imagefolder" else "pictures.npz")

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def study(self) -> Path:
        return self.runs / "mine"

    def draw_images(self, *, seed: int) -> None:
        if self.images.is_dir():
            shutil.rmtree(self.images)
        self.images.parent.mkdir(parents=True, exist_ok=True)
        (write_folder if self.kind == "imagefolder" else write_npz)(self.images, seed=seed)

    def moved_to(self, folder: Path) -> "Project":
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Project(self.folder.rename(folder), self.kind)

    def tune(self, *words: str, out: Path | None = None) -> Said:
        return said_by(tune.main, *("--space", str(self.folder / "space.yaml"), "--out", str(out or self.runs), *words))


@pytest.fixture(params=["npz", "imagefolder"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose space names its images relative to itself; the working directory is another folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "cache"))
    made = Project(tmp_path / "project", request.param)
    made.draw_images(seed=0)
    relative = str(made.images.relative_to(made.folder))
    size = {"image_size": 8} if made.kind == "imagefolder" else {}
    data = {**SPACE["trial"]["data"], **size, "name": made.kind, "path": relative}
    space = {**SPACE, "trial": {**SPACE["trial"], "data": data}}
    (made.folder / "space.yaml").write_text(dump_yaml(space), encoding="utf-8")
    return made


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """The studies that were run: in place of Ray, finished trials are written by hand."""
    studies: list[StudyConfig] = []

    def run_study(config: StudyConfig, folder: Path, **_: Any) -> StopReason | None:
        studies.append(config)
        write_config(folder, config)
        for number in range(config.budget.trials):
            trial = TrialFolder(folder, number)
            if trial.read() is None:
                trial.open(next(SearchSpace(config).points()))
            if not trial.epochs_file.exists():
                scores = {"clean_accuracy": 0.5, "robust_accuracy": 0.25, "crop_passes": 40}
                trial.write_rows([{"epoch": 1, "done": True, **scores}])
        return StopReason("trials", "budget.trials reached")

    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.run", SimpleNamespace(run_study=run_study))
    monkeypatch.setattr("cfamc_ray.report.page.write_report", lambda folder, **_: folder / "report")
    return studies


def assert_refused(said: Said, images: Path, study: Path, begun: list[StudyConfig]) -> None:
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"data {images}: holds other images than those that {study} began with: ")
    assert "--set data.path=PATH" in said.err
    assert len(begun) == 1


Way = Callable[[Project, Path], tuple[Project, Said, Path]]


def moved(project: Project, place: Path) -> tuple[Project, Said, Path]:
    """The whole project at another place."""
    there = project.moved_to(place / "deep" / "er")
    return there, there.tune("--trials", "2", "--resume"), there.study


def mirrored(project: Project, place: Path) -> tuple[Project, Said, Path]:
    """The project without its runs on another machine, which begins from the copy in an object store."""
    there = project.moved_to(place)
    shutil.rmtree(there.runs)
    said = there.tune("--trials", "2", "--resume", "--mirror", f"file://{place.parent}/store", out=place / "new runs")
    return there, said, place / "new runs" / "mine"


def images_copied(project: Project, place: Path) -> tuple[Project, Said, Path]:
    """Images at another place, which is named relative to the working directory."""
    there = project.moved_to(place)
    images = there.images.rename(Path.cwd() / "a copy")
    said = there.tune("--trials", "2", "--resume", "--set", "data.path=a copy")
    images.rename(there.images)
    return there, said, there.study


def imported(project: Project, place: Path) -> tuple[Project, Said, Path]:
    """Another study, which takes over the trials of the moved one."""
    there = project.moved_to(place)
    said = there.tune("--trials", "2", "--set", "name=next", "--warm-start", str(there.study))
    return there, said, there.runs / "next"


@pytest.mark.parametrize("way", [moved, mirrored, images_copied, imported], ids=lambda way: way.__name__)
def test_a_study_goes_on_with_its_images_wherever_both_are(
    project: Project, begun: list[StudyConfig], tmp_path: Path, way: Way
) -> None:
    said = project.tune("--trials", "1", "--mirror", f"file://{tmp_path}/store")
    assert (said.code, said.err) == (0, "")
    assert begun[0].trial.data.location == str(project.images)
    assert not Path(read_study(project.study / "study.yaml").trial.data.location or "").is_absolute()
    before = read_trials(project.study)
    there, said, study = way(project, tmp_path / "there")
    assert (said.code, said.err) == (0, "")
    assert len(begun) == 2
    assert Path(begun[1].trial.data.location or "").name in (there.images.name, "a copy")
    assert str(tmp_path / "project") not in str(begun[1].trial.data.location)
    assert before[0].rows[0]["clean_accuracy"] == read_trials(study)[0].rows[0]["clean_accuracy"]
    assert len(read_trials(study)) == 2


@pytest.mark.parametrize("way", [moved, mirrored, images_copied], ids=lambda way: way.__name__)
def test_other_images_at_their_place_are_refused_with_their_name(
    project: Project, begun: list[StudyConfig], tmp_path: Path, way: Way
) -> None:
    assert project.tune("--trials", "1", "--mirror", f"file://{tmp_path}/store").code == 0
    project.draw_images(seed=1)
    there, said, study = way(project, tmp_path / "there")
    assert_refused(said, Path.cwd() / "a copy" if way is images_copied else there.images, study, begun)


def test_trials_on_other_images_are_not_taken_over(project: Project, begun: list[StudyConfig], tmp_path: Path) -> None:
    assert project.tune("--trials", "1").code == 0
    project.draw_images(seed=1)
    _, said, study = imported(project, tmp_path / "there")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.endswith("is a study of something else (different: images)\n")
    assert (len(begun), read_trials(study)) == (1, [])


def train_trial(project: Project, out: Path, *words: str) -> Said:
    trial = str(project.study / "trial_00000")
    settings = ("--set", "resources.cpus_per_worker=1", "--device", "cpu")
    return said_by(train, "--trial", trial, "--out", str(out), *settings, *words)


def test_a_trial_of_a_moved_study_is_trained_anew_on_its_images_alone(
    project: Project, begun: list[StudyConfig], tmp_path: Path
) -> None:
    assert project.tune("--trials", "1").code == 0
    there = project.moved_to(tmp_path / "there")
    said = train_trial(there, tmp_path / "trained")
    assert (said.code, said.err) == (0, "")
    (run,) = (tmp_path / "trained").iterdir()
    kept = read_study(run / "study.yaml").trial.data.location
    assert kept is not None
    assert (run / kept).resolve() == there.images
    there.draw_images(seed=1)
    assert_refused(train_trial(there, tmp_path / "again"), there.images, there.study, begun)
    assert not (tmp_path / "again").exists()
    few = "pretrain_images: 20, probe_images: 20, validation_images: 10"
    size = ", image_size: 8" if there.kind == "imagefolder" else ""
    whole = f"data={{name: {there.kind}, path: '{there.images}', {few}{size}}}"
    for number, named in enumerate([f"data.path={there.images}", whole]):
        said = train_trial(there, tmp_path / f"again{number}", "--set", named)
        assert (said.code, said.err) == (0, ""), "other images that are named are meant"


def test_images_that_are_nowhere_are_missed_where_the_moved_study_expects_them(
    project: Project, begun: list[StudyConfig], tmp_path: Path
) -> None:
    assert project.tune("--trials", "1").code == 0
    there = project.moved_to(tmp_path / "there")
    there.images.rename(tmp_path / "hidden")
    said = train_trial(there, tmp_path / "trained")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"data.path {there.images}: no such file or folder")
    assert not (tmp_path / "trained").exists()


def test_a_front_is_confirmed_on_the_images_that_it_was_found_on(
    project: Project, begun: list[StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed: list[StudyConfig] = []
    confirming = SimpleNamespace(run_confirmation=lambda config, *_, **__: confirmed.append(config))
    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.confirmation", confirming)
    words = ("--trials", "1", "--set", "confirm={seeds: 1}")
    assert project.tune(*words).code == 130, "None is no complete confirmation"
    there = project.moved_to(tmp_path / "there")
    assert there.tune(*words).code == 130
    assert [config.trial.data.location for config in confirmed] == [str(project.images), str(there.images)]
    there.draw_images(seed=1)
    said = there.tune(*words)
    assert (said.code, said.err.count("\n"), len(confirmed)) == (2, 1, 2)
    assert said.err.startswith(f"data {there.images}: holds other images than those that {there.study} began with: ")


def test_a_scaling_study_goes_on_with_its_images_wherever_both_are_and_with_no_others(
    project: Project, begun: list[StudyConfig], tmp_path: Path
) -> None:
    space = read_study(project.folder / "space.yaml").model_dump(mode="json", include={"trial"})
    learning = {"crop_passes": [40, 80], "split": {"crops.views": [2]}, "seeds": [1], "tolerance": 0.4}
    (project.folder / "grown.yaml").write_text(dump_yaml({"name": "grown", **space, "learning": learning}))

    def grow(folder: Path) -> Said:
        return said_by(scale.main, "--space", str(folder / "grown.yaml"), "--out", str(folder / "runs"))

    grow(project.folder)
    there = project.moved_to(tmp_path / "there")
    trials = there.runs / "grown" / "learning"
    (trials / "trial_00001" / "epochs.jsonl").unlink()
    assert grow(there.folder).err == ""
    assert [config.trial.data.location for config in begun] == [str(project.images), str(there.images)]
    (trials / "trial_00001" / "epochs.jsonl").unlink()
    there.draw_images(seed=1)
    said = grow(there.folder)
    assert (said.code, said.err.count("\n"), len(begun)) == (2, 1, 2)
    assert said.err.startswith(f"data {there.images}: holds other images than those that {trials} began with: ")

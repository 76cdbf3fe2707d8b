"""The command that trains one configuration: what it prints, keeps, refuses, and goes on from."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from cfamc_ray import load_classifier
from cfamc_ray.cli.front import main as draw_front
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.recipes import Variant, read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.work import study_cost
from cfamc_ray.data.splits import load_splits
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.space.reading import read_study, resolve_study
from cfamc_ray.store.lock import only_driver
from cfamc_ray.store.records import TrialFolder, read_config, read_trials, write_config
from cfamc_ray.terminal import TrainingView
from cfamc_ray.train import main
from cfamc_ray.training.trial import Trial

KEYS = [
    "data.name=digits",
    "data.image_size=16",
    "data.pretrain_images=60",
    "data.probe_images=60",
    "data.validation_images=20",
    "crops.size=16",
    "crops.views=2",
    "encoder.width=4",
    "encoder.prefeature_width=16",
    "encoder.hidden_width=16",
    "encoder.embedding_width=8",
    "pretraining.batch_images=20",
    "pretraining.epochs=2",
    "pretraining.precision=float32",
    "evaluation.attacked_images=10",
    "evaluation.attack.steps=2",
]
SETTINGS = [word for key in [*KEYS, "resources.cpus_per_worker=1"] for word in ("--set", key)]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


class Said(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


Train = Callable[..., Said]


def said_by(command: Callable[[Sequence[str]], int], *words: str) -> Said:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = command(words)
    return Said(code, out.getvalue(), err.getvalue())


def train_into(out: Path, *words: str, recipe: str = "cf-amc-ssl") -> Said:
    return said_by(main, "--recipe", recipe, "--out", str(out), *SETTINGS, *words)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """The folder of a finished run, which tests only read, and what was said meanwhile."""
    runs = tmp_path_factory.mktemp("runs")
    said = train_into(runs)
    assert said.code == 0, said
    return runs / "cf-amc-ssl", said


@pytest.fixture
def finished(trained: tuple[Path, Said], tmp_path: Path) -> Path:
    """A copy in tmp_path/runs."""
    shutil.copytree(trained[0], tmp_path / "runs" / "cf-amc-ssl")
    return tmp_path / "runs" / "cf-amc-ssl"


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """The command on tiny settings, with tmp_path/runs to put runs in."""

    def type_in(*words: str, recipe: str = "cf-amc-ssl") -> Said:
        return train_into(tmp_path / "runs", *words, recipe=recipe)

    return type_in


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfamc_ray.training.recording.run_recorded", lambda *_, **__: pytest.fail("it was trained"))


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int, by: signal.Signals = signal.SIGINT) -> None:
    """Send a signal, Ctrl-C unless another one is named, once so many minibatches are done."""
    done = iter(range(1, 1000))

    def advance(_: TrainingView) -> None:
        if next(done) == after:
            signal.raise_signal(by)

    monkeypatch.setattr(TrainingView, "advance", advance)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tiny_study() -> StudyConfig:
    return resolve_study({"name": "cf-amc-ssl", "base": "cf-amc-ssl"}, KEYS, source="tiny")


class TestList:
    @pytest.mark.parametrize("variant", ["corrected", "published"])
    def test_it_shows_every_recipe_uncut_on_a_narrow_terminal(
        self, variant: Variant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        said = said_by(main, "--recipe", "list", "--variant", variant)
        assert (said.code, said.err) == (0, "")
        lines = {line.split()[0]: line for line in said.out.splitlines() if line}
        assert list(lines)[1 : 1 + len(recipe_names())] == recipe_names()
        for name in recipe_names():
            recipe = read_recipe(name)
            assert lines[name].endswith(recipe.summary)
            assert f" {recipe.trial(variant).crop_passes:.3g} " in lines[name]
        assert "…" not in said.out
        assert f"Crop passes and FLOPs of the variant {variant}" in said.out

    def test_published_numbers_stand_beside_their_recipe(self) -> None:
        lines = said_by(main, "--recipe", "list").out.splitlines()
        (line,) = [line for line in lines if line.startswith("emp-ssl-patches-pgd ")]
        assert " ".join(line.split()).startswith("emp-ssl-patches-pgd 61 / 37.65 / 16.95 39.26 / 14.38 / 4.22 530 ")
        (line,) = [line for line in lines if line.startswith("simclr-crops ")]
        assert line.split()[1:4] == ["–", "–", "–"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--set", "crops.veiws=3"], "unknown key trial.crops.veiws; did you mean views?"),
            (["--set", "crps.views=3"], "--set crps.views=3: there is no key 'crps'; did you mean crops?"),
            (["--set", "crops.views"], "--set crops.views: write key=value"),
            (["--set", "crops.views=1"], "crops.views: input should be greater than or equal to 2 (it is 1)"),
            (["--set", "space.crops.views={int: [2, 4]}"], "--set space: a run has no space to search"),
            (["--set", "budget.trials=2"], "--set budget.trials: a run is one trial"),
            (["--set", "variant=published"], "--set base, --set variant: name them with --recipe and --variant"),
            (["--set", "base=simclr-crops"], "--set base, --set variant: name them with --recipe and --variant"),
            (["--workers", "0"], "--workers 0: must be at least 1"),
            (["--workers", "3"], "pretraining.batch_images 20 cannot be shared evenly"),
            (["--address", "auto"], "--address: one worker needs no cluster; add --workers N"),
            (["--name", "a/b"], "name: must be letters, digits, dots, dashes and underscores (it is 'a/b')"),
            (["--resume"], "there is nothing to resume; leave out --resume to begin"),
            (["--set", "data.pretrain_images=99999"], "need 100019 training images, but digits has"),
            (["--set", "data.name=npz", "--set", "data.path=nothing.npz"], "data.path nothing.npz: no such file"),
            pytest.param(["--device", "cuda"], "--device cuda: torch finds no GPU here; leave it out", marks=NO_GPU),
            pytest.param(
                ["--set", "resources.gpus_per_worker=1"], "torch finds no GPU here; leave it out", marks=NO_GPU
            ),
        ],
        ids=str,
    )
    def test_it_is_refused_in_one_line_with_exit_code_2_and_nothing_is_written(
        self, train: Train, tmp_path: Path, words: list[str], named: str
    ) -> None:
        said = train(*words)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert named in said.err
        assert files(tmp_path) == {}
        assert not (tmp_path / "runs").exists()

    def test_an_unknown_recipe_is_refused_with_the_nearest(self, train: Train, tmp_path: Path) -> None:
        said = train(recipe="cf-amc")
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("there is no recipe 'cf-amc': did you mean cf-amc-ssl? There are cf-amc-ssl, ")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("words", [[], ["--recipe"], ["--recipe", "cf-amc-ssl", "--workers", "many"]])
    def test_what_the_parser_refuses_ends_with_2_too(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert "usage: python -m cfamc_ray.train" in capsys.readouterr().err

    def test_a_file_where_the_folder_should_be_is_refused(self, train: Train, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("mine")
        said = train()
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert said.err.startswith(f"{tmp_path / 'runs' / 'cf-amc-ssl'}: cannot be written (")
        assert "name another folder with --out" in said.err
        assert (tmp_path / "runs").read_text() == "mine"


class TestDryRun:
    def test_it_trains_nothing_and_prints_the_run_and_its_cost(
        self, train: Train, tmp_path: Path, no_training: None
    ) -> None:
        said = train("--dry-run", "--set", "pretraining.epochs=7")
        assert (said.code, said.err) == (0, "")
        (tmp_path / "printed.yaml").write_text(said.out, encoding="utf-8")
        trial = read_study(tmp_path / "printed.yaml").trial
        assert (trial.pretraining.epochs, trial.crops.views, trial.perturbation.attack) == (7, 2, "free")
        assert trial.crop_passes == 7 * 3 * 60 * 2
        cost = said.out.splitlines()[-1]
        assert cost.startswith(f"# {trial.crop_passes:.3g} crop passes and ")
        assert study_cost([trial]).evaluation() in cost
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(("there", "workers", "each"), [(8, 1, 8), (8, 2, 4), (5, 2, 2), (1, 2, 1)])
    def test_the_cores_that_there_are_are_shared_by_the_workers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, workers: int, each: int
    ) -> None:
        monkeypatch.setattr("cfamc_ray.lifecycle.plans.cores", lambda: there)
        said = said_by(main, "--recipe", "cf-amc-ssl", "--workers", str(workers), "--dry-run")
        (tmp_path / "printed.yaml").write_text(said.out, encoding="utf-8")
        assert read_study(tmp_path / "printed.yaml").resources.cpus_per_worker == each

    @pytest.mark.parametrize("variant", ["corrected", "published"])
    def test_it_needs_no_data_and_the_variant_decides(self, variant: Variant, tmp_path: Path) -> None:
        said = said_by(main, "--recipe", "simclr-crops-pgd", "--variant", variant, "--dry-run", "--device", "cpu")
        (tmp_path / "printed.yaml").write_text(said.out, encoding="utf-8")
        study = read_study(tmp_path / "printed.yaml")
        assert study.trial == read_recipe("simclr-crops-pgd").trial(variant)
        assert study.name == ("simclr-crops-pgd" if variant == "corrected" else "simclr-crops-pgd-published")
        assert f"# {study.trial.crop_passes:.3g} crop passes and " in said.out


class TestRun:
    def test_it_says_where_it_is_what_it_reached_and_what_to_type_next(self, trained: tuple[Path, Said]) -> None:
        folder, said = trained
        (record,) = read_trials(folder)
        lines = said.out.splitlines()
        assert lines[0] == f"cf-amc-ssl → {folder}"
        for line, row in zip(lines[1:3], record.rows, strict=True):
            assert line.startswith(
                f"epoch {row['epoch']} of 2: loss {row['loss']:.3g}, clean {row['clean_accuracy']:.1%}, "
                f"margins-6 at 4/255 {row['robust_accuracy']:.1%}, "
            )
        assert lines[4].startswith("cf-amc-ssl: 2 epochs, 720 crop passes, ")
        assert lines[4].endswith(" s on CPU, 1 thread")
        assert lines[5] == "On validation images, by the L2 strength of the linear probe:"
        assert " ".join(lines[6].split()) == "L2 clean margins-6 at 4/255"
        points = record.rows[-1]["operating_points"]
        assert [point["l2"] for point in points] == list(tiny_study().trial.evaluation.head.l2)
        for line, point in zip(lines[7:12], points, strict=True):
            accuracies = (point["clean_accuracy"], point["robust_accuracy"])
            assert line.split() == [f"{point['l2']:g}", *(f"{accuracy:.1%}" for accuracy in accuracies)]
        assert lines[12].split() == ["Encoder", str(folder / "trial_00000" / "encoder.safetensors")]
        assert lines[13].split()[2:] == ["-m", "cfamc_ray.evaluate", str(folder)]
        assert lines[14].split()[2:] == ["--logdir", str(folder)]
        assert (len(lines), said.err) == (15, "")

    def test_elsewhere_than_on_a_terminal_there_are_no_escape_codes(self, trained: tuple[Path, Said]) -> None:
        assert not re.search(r"[\x1b\r\b]", trained[1].out)

    def test_its_folder_is_that_of_a_study_of_one_trial(self, trained: tuple[Path, Said]) -> None:
        folder, _ = trained
        study = read_config(folder)
        (record,) = read_trials(folder)
        assert study.trial == tiny_study().trial
        assert (study.budget.trials, study.base, study.space) == (1, "cf-amc-ssl", {})
        assert (record.status, record.point) == ("finished", {})
        assert [row["epoch"] for row in record.rows] == [1, 2]
        assert record.value("crop_passes") == study.trial.crop_passes
        assert json.loads((folder / "environment.json").read_text())["versions"]["torch"]
        assert not TrialFolder(folder, 0).checkpoint.exists()
        assert not list(folder.rglob("*.partial"))

    def test_the_encoder_is_that_of_the_trial_by_itself(self, trained: tuple[Path, Said]) -> None:
        config = tiny_study().trial
        alone = Trial(config, load_splits(config.data))
        list(alone)
        saved = load_encoder(TrialFolder(trained[0], 0).encoder).state_dict()
        assert saved.keys() == alone.trainer.encoder.state_dict().keys()
        assert all(torch.equal(weight, saved[name]) for name, weight in alone.trainer.encoder.state_dict().items())

    def test_its_probes_have_the_accuracies_of_their_operating_points(self, trained: tuple[Path, Said]) -> None:
        config, folder = tiny_study().trial, trained[0] / "trial_00000"
        images = load_splits(config.data).validation
        points = read_trials(trained[0])[0].rows[-1]["operating_points"]
        for point in points:
            classifier = load_classifier(folder, l2=point["l2"])
            right_N = classifier(images.images_NCHW[:] / 255).argmax(-1) == images.labels_N
            assert right_N.double().mean() == point["clean_accuracy"]
            assert not any(parameter.requires_grad for parameter in classifier.head.parameters())
            assert not classifier.training

    @pytest.mark.parametrize(
        ("l2", "named"),
        [
            (None, "heads.safetensors: l2 must be one of 0.001, 0.01, 0.1, 0.3, 1"),
            (0.2, "heads.safetensors: l2 must be one of 0.001, 0.01, 0.1, 0.3, 1, not 0.2"),
        ],
    )
    def test_a_probe_that_there_is_not_is_refused_with_the_known_ones(
        self, trained: tuple[Path, Said], l2: float | None, named: str
    ) -> None:
        with pytest.raises(InputError) as refused:
            load_classifier(trained[0] / "trial_00000", l2=l2)
        assert str(refused.value).endswith(named)

    def test_probes_that_are_missing_or_damaged_are_refused(self, finished: Path) -> None:
        trial = finished / "trial_00000"
        (trial / "heads.safetensors").write_bytes(b"no weights")
        with pytest.raises(InputError, match=r"heads\.safetensors: not the probes of a trial that cfamc_ray saved"):
            load_classifier(trial, l2=0.1)
        (trial / "heads.safetensors").unlink()
        with pytest.raises(InputError, match=r"heads\.safetensors: not the probes of a trial that cfamc_ray saved"):
            load_classifier(trial, l2=0.1)
        with pytest.raises(InputError, match=r"encoder\.safetensors"):
            load_classifier(finished / "nothing", l2=0.1)

    def test_tensorboard_has_its_curves(self, trained: tuple[Path, Said]) -> None:
        (record,) = read_trials(trained[0])
        events = EventAccumulator(str(trained[0] / "trial_00000")).Reload()
        for name, metric in [("accuracy/clean", "clean_accuracy"), ("loss/total", "loss")]:
            scalars = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
            assert scalars == [(row["epoch"], pytest.approx(row[metric])) for row in record.rows]

    def test_its_front_can_be_drawn(self, finished: Path) -> None:
        said = said_by(draw_front, str(finished))
        assert said.code == 0
        assert said.out.startswith("1 operating point of 1 trial on the front, hypervolume ")
        assert (finished / "report" / "front.png").is_file()

    def test_without_validation_images_there_are_no_accuracies(self, train: Train, tmp_path: Path) -> None:
        said = train("--variant", "published", "--set", "data.validation_images=0")
        assert (said.code, said.err) == (0, "")
        study = tmp_path / "runs" / "cf-amc-ssl-published"
        (record,) = read_trials(study)
        assert [(row["clean_accuracy"], row["robust_accuracy"]) for row in record.rows] == [(None, None)] * 2
        assert record.status == "finished"
        assert TrialFolder(study, 0).encoder.is_file()
        assert "On validation images" not in said.out
        assert "%" not in said.out
        assert "nan" not in said.out
        assert said_by(draw_front, str(study)).out.startswith("0 points on the front")

    def test_a_run_that_diverges_ends_with_1_and_the_reason_also_when_typed_again(
        self, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ("--set", "optimizer.lr=1.0e+30", "--set", "optimizer.trust_coefficient=null")
        said = train(*words)
        assert said.code == 1
        assert said.err.startswith("cf-amc-ssl failed: diverged: ")
        assert "Encoder" not in said.out
        (record,) = read_trials(tmp_path / "runs" / "cf-amc-ssl")
        assert record.status == "failed"
        outcome, remedy = said.err.splitlines()
        assert outcome == f"cf-amc-ssl failed: {record.reason}"
        assert "--name" in remedy
        monkeypatch.setattr("cfamc_ray.training.recording.run_recorded", lambda *_, **__: pytest.fail("it was trained"))
        assert train(*words) == (1, "", said.err)

    def test_a_relative_data_path_is_noted_as_an_absolute_one(
        self, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("images.npz").touch()
        said = train("--dry-run", "--set", "data.name=npz", "--set", "data.path=images.npz")
        assert f"path: {tmp_path / 'images.npz'}\n" in said.out


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
def test_a_folder_that_another_process_holds_is_refused(
    train: Train, tmp_path: Path, no_training: None, resume: list[str]
) -> None:
    folder = tmp_path / "runs" / "cf-amc-ssl"
    folder.mkdir(parents=True)
    if resume:
        write_config(folder, tiny_study())
        TrialFolder(folder, 0).open({})
    with only_driver(folder):
        before = files(folder)
        said = train(*resume)
        assert files(folder) == before
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"{folder}: another process is at work on it (process {os.getpid()} on ")


class TestTypedAgain:
    @pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
    def test_a_finished_run_prints_its_result_again(
        self, train: Train, finished: Path, trained: tuple[Path, Said], resume: list[str], no_training: None
    ) -> None:
        before = files(finished)
        said = train(*resume)
        assert (said.code, said.err) == (0, "")
        result = "\n".join(trained[1].out.splitlines()[3:]) + "\n"
        assert said.out == result.replace(str(trained[0]), str(finished))
        assert files(finished) == before

    def test_what_it_says_to_type_next_can_be_typed_where_a_folder_has_a_space(
        self, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a place").mkdir()
        for name in ("python", "tensorboard"):
            (tmp_path / "a place" / name).touch()
        monkeypatch.setattr(sys, "executable", str(tmp_path / "a place" / "python"))
        runs = finished.parent.rename(tmp_path / "my runs")
        lines = train_into(runs).out.splitlines()
        assert [shlex.split(line)[1] for line in lines[-2:]] == [
            str(tmp_path / "a place" / "python"),
            str(tmp_path / "a place" / "tensorboard"),
        ]
        assert [shlex.split(line)[-1] for line in lines[-2:]] == [str(runs / "cf-amc-ssl")] * 2

    @pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
    @pytest.mark.parametrize(
        ("override", "different"),
        [
            ("crops.views=4", "trial.crops.views"),
            ("seed=7", "trial.seed"),
        ],
    )
    def test_another_config_in_its_folder_is_refused_with_the_keys_that_differ(
        self, train: Train, finished: Path, override: str, different: str, resume: list[str], no_training: None
    ) -> None:
        before = files(finished)
        said = train("--set", override, *resume)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"{finished}: belongs to a study of another space (different: {different}")
        assert "name another folder with --out" in said.err
        assert files(finished) == before

    def test_another_name_or_folder_has_room_for_it(self, train: Train, finished: Path, tmp_path: Path) -> None:
        before = files(finished)
        assert train("--name", "other", "--set", "seed=7", "--set", "pretraining.epochs=1").code == 0
        assert [record.status for record in read_trials(tmp_path / "runs" / "other")] == ["finished"]
        assert files(finished) == before


class TestInterrupted:
    def test_before_it_began_the_printed_command_begins_it(
        self, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("cfamc_ray.lifecycle.training.check_data", interrupted)
        said = train()
        assert (said.code, said.err) == (130, "")
        assert "Resume with\n" in said.out
        assert "--resume" not in said.out
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("after", "epochs", "by", "code"),
        [
            (2, 0, signal.SIGINT, 130),
            (4, 1, signal.SIGINT, 130),
            (4, 1, signal.SIGTERM, 143),
            (2, 0, signal.SIGHUP, 129),
        ],
        ids=str,
    )
    def test_it_goes_on_by_the_printed_command_and_ends_as_if_nothing_had_been(
        self,
        train: Train,
        trained: tuple[Path, Said],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        after: int,
        epochs: int,
        by: signal.Signals,
        code: int,
    ) -> None:
        with monkeypatch.context() as while_it_trains:
            interrupt(while_it_trains, after=after, by=by)
            said = train()
        folder = tmp_path / "runs" / "cf-amc-ssl"
        assert (said.code, said.err) == (code, "")
        assert "Interrupted; every finished epoch is kept. Resume with\n" in said.out
        (record,) = read_trials(folder)
        assert (record.status, len(record.rows)) == ("running", epochs)
        assert not TrialFolder(folder, 0).encoder.exists()

        before = files(folder)
        refused = train()
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == (
            f"{folder}: holds this study with 0 of 1 trials ended; "
            "re-run with --resume to resume it, or name another folder with --out\n"
        )
        assert files(folder) == before

        python, *words = shlex.split(said.out.splitlines()[-1])
        assert (Path(python).name, Path(python).exists(), words[:2]) == ("python", True, ["-m", "cfamc_ray.train"])
        resumed = said_by(main, *words[2:])
        assert (resumed.code, resumed.err) == (0, "")
        assert re.findall(r"^epoch (\d)", resumed.out, re.MULTILINE) == [str(epoch) for epoch in (1, 2)[epochs:]]
        uninterrupted, encoder = TrialFolder(trained[0], 0), TrialFolder(folder, 0).encoder
        saved, expected = load_encoder(encoder).state_dict(), load_encoder(uninterrupted.encoder).state_dict()
        assert all(torch.equal(saved[name], weight) for name, weight in expected.items())
        metrics = ("epoch", "loss", "clean_accuracy", "robust_accuracy", "crop_passes")
        rows = [
            [[row[metric] for metric in metrics] for row in read_trials(study)[0].rows]
            for study in (trained[0], folder)
        ]
        assert rows[0] == rows[1]

    @pytest.mark.long
    def test_a_process_that_a_scheduler_ends_goes_on_by_the_command_that_it_printed(self, tmp_path: Path) -> None:
        words = [*("--recipe", "cf-amc-ssl", "--out", str(tmp_path)), *SETTINGS, "--set", "pretraining.epochs=20"]
        words += ["--set", "evaluation.every_epochs=20"]
        in_background = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")
        process = subprocess.Popen(
            [*in_background, sys.executable, "-m", "cfamc_ray.train", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not TrialFolder(tmp_path / "cf-amc-ssl", 0).checkpoint.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.terminate()
        out, err = process.communicate(timeout=900)
        assert (process.returncode, err) == (143, "")
        (before,) = read_trials(tmp_path / "cf-amc-ssl")
        again = subprocess.run(shlex.split(out.splitlines()[-1]), capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr) == (0, "")
        (after,) = read_trials(tmp_path / "cf-amc-ssl")
        assert (after.status, len(after.rows)) == ("finished", 20)
        assert after.rows[: len(before.rows)] == before.rows, "an epoch was trained again"

    def test_the_printed_command_repeats_what_was_typed(
        self, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt(monkeypatch, after=1)
        typed = ["--variant", "published", "--name", "mine", "--device", "cpu", "--set", "question=Why, oh why?"]
        said = train(*typed)
        assert said.code == 130
        words = shlex.split(said.out.splitlines()[-1])[3:]
        overrides = [*SETTINGS, "--set", "question=Why, oh why?"]
        assert words == [
            *("--recipe", "cf-amc-ssl", "--variant", "published", "--out", str(tmp_path / "runs"), "--resume"),
            *("--name", "mine", "--device", "cpu", *overrides),
        ]


@pytest.mark.parametrize(("word", "epochs"), [("--quiet", 0), ("--verbose", 3)])
def test_it_says_as_much_as_was_asked_for_and_always_the_result(word: str, epochs: int, tmp_path: Path) -> None:
    said = train_into(tmp_path, word, "--set", "pretraining.epochs=3", "--set", "evaluation.every_epochs=3")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == epochs
    assert (f"cf-amc-ssl → {tmp_path / 'cf-amc-ssl'}" in lines) is (epochs > 0)
    assert sum("of the perturbation at the border" in line for line in lines) == epochs
    assert any(line.startswith("cf-amc-ssl: 3 epochs, ") for line in lines)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestView:
    def test_on_a_narrow_terminal_epochs_are_whole_and_the_bar_fits(
        self, trained: tuple[Path, Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.setenv("TERM", "xterm")
        terminal, folder = Terminal(), TrialFolder(tmp_path, 0)
        rows = read_trials(trained[0])[0].rows
        with TrainingView(folder, tiny_study(), terminal) as view:
            folder.open({})
            for epoch in (1, 2):
                for _ in range(3):
                    view.advance()
                folder.write_rows(rows[:epoch])
                view.show()
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
        lines = [line for line in re.split(r"[\r\n]+", shown) if line.strip()]
        epochs = trained[1].out.splitlines()[1:3]
        assert set(epochs) <= set(lines)
        assert all(len(line) <= 40 for line in lines if line not in epochs)
        assert "6/6" in lines[-1]
        assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l") > -1

    def test_only_evaluated_epochs_have_a_line(self, tmp_path: Path, trained: tuple[Path, Said]) -> None:
        keys = [*KEYS, "pretraining.epochs=5", "evaluation.every_epochs=2"]
        study = resolve_study({"name": "run", "base": "cf-amc-ssl"}, keys, source="tiny")
        folder, stream = TrialFolder(tmp_path, 0), io.StringIO()
        row = read_trials(trained[0])[0].rows[0]
        folder.open({})
        with TrainingView(folder, study, stream) as view:
            for epoch in range(1, 6):
                folder.write_rows({**row, "epoch": number, "done": number == 5} for number in range(1, epoch + 1))
                view.show()
        assert [line.split(":")[0] for line in stream.getvalue().splitlines()] == [
            "epoch 2 of 5",
            "epoch 4 of 5",
            "epoch 5 of 5",
        ]


def test_both_commands_work_with_ray_and_optuna_absent(tmp_path: Path) -> None:
    evaluate = ["--protocol", "published-simclr", "--set", "images=10", "--set", "attacked_images=5"]
    program = "\n".join(
        [
            "import sys; sys.modules.update(dict.fromkeys(['ray', 'optuna']))",  # an import of None raises ImportError
            "from cfamc_ray import evaluate, train",
            f"assert train.main({['--recipe', 'cf-amc-ssl', '--out', str(tmp_path), *SETTINGS]!r}) == 0",
            f"assert evaluate.main({[str(tmp_path / 'cf-amc-ssl'), *evaluate]!r}) == 0",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "cf-amc-ssl" / "trial_00000" / "evaluations").glob("published-simclr-*.json")
    assert json.loads(record.read_text())["results"][0]["images"] == 10


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_workers_train_through_ray(tmp_path: Path) -> None:
    words = ["--recipe", "cf-amc-ssl", "--out", str(tmp_path), *SETTINGS, "--set", "encoder.norm=group"]
    words += ["--workers", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "cfamc_ray.train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.findall(r"^epoch (\d) of 2", done.stdout, re.MULTILINE) == ["1", "2"]
    (record,) = read_trials(tmp_path / "cf-amc-ssl")
    assert (record.status, len(record.rows)) == ("finished", 2)
    assert 0 <= record.value("robust_accuracy") <= record.value("clean_accuracy") <= 1
    assert load_encoder(TrialFolder(tmp_path / "cf-amc-ssl", 0).encoder)
    environment = json.loads((tmp_path / "cf-amc-ssl" / "environment.json").read_text())
    assert environment["resources"]["CPU"] >= 2
    again = said_by(main, *words)
    assert (again.code, again.err) == (0, "")
    assert again.out.rstrip("\n") in done.stdout


class TestTrialOfAStudy:
    """`--trial` trains anew what a study tried."""

    @staticmethod
    def study(out: Path) -> Path:
        """A study on a recipe that searched crops, as tune leaves it."""
        tree = {"name": "searched", "base": "cf-amc-ssl", "space": {"crops.views": {"int": [2, 4]}}}
        write_config(out / "searched", resolve_study(tree, [key for key in KEYS if "views" not in key], source="tiny"))
        TrialFolder(out / "searched", 3).open({"crops.views": 2})
        return out / "searched" / "trial_00003"

    def test_it_is_trained_as_the_recipe_would_be_that_has_its_values(
        self, trained: tuple[Path, Said], tmp_path: Path
    ) -> None:
        (tmp_path / "searched").mkdir()
        words = ("--trial", str(self.study(tmp_path)), "--out", str(tmp_path), "--set", "resources.cpus_per_worker=1")
        said = said_by(main, *words)
        assert (said.code, said.err) == (0, "")
        folder = tmp_path / "searched-trial_00003"
        assert said.out.startswith(f"searched-trial_00003 → {folder}\n")
        assert read_config(folder).trial == tiny_study().trial
        encoders = [TrialFolder(place, 0).encoder.read_bytes() for place in (folder, trained[0])]
        assert encoders[0] == encoders[1]

    def test_with_one_strength_it_is_the_same_encoder_with_one_operating_point(
        self, trained: tuple[Path, Said], tmp_path: Path
    ) -> None:
        (tmp_path / "searched").mkdir()
        settings = ("resources.cpus_per_worker=1", "evaluation.head.l2=0.1")
        words = ("--trial", str(self.study(tmp_path)), "--out", str(tmp_path))
        said = said_by(main, *words, *(word for text in settings for word in ("--set", text)))
        assert (said.code, said.err) == (0, "")
        folder = tmp_path / "searched-trial_00003"
        trial, (record,) = read_config(folder).trial, read_trials(folder)
        assert (trial.crops.views, trial.evaluation.head.l2) == (2, (0.1,)), "the searched point stays"
        (point,) = record.rows[-1]["operating_points"]
        of_path = {each["l2"]: each for each in read_trials(trained[0])[0].rows[-1]["operating_points"]}[0.1]
        assert (point["l2"], point["clean_accuracy"]) == (0.1, of_path["clean_accuracy"])
        heading = "On validation images, by the L2 strength of the linear probe:"
        rows = said.out.splitlines()[said.out.splitlines().index(heading) + 2 :]
        assert rows[0].split() == ["0.1", f"{point['clean_accuracy']:.1%}", f"{point['robust_accuracy']:.1%}"]
        assert rows[1].startswith("Encoder")
        encoders = [TrialFolder(place, 0).encoder.read_bytes() for place in (folder, trained[0])]
        assert encoders[0] == encoders[1]
        only = load_classifier(folder / "trial_00000")
        assert torch.equal(only.head.weight, load_classifier(folder / "trial_00000", l2=0.1).head.weight)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "words", "named"),
        [
            ("searched/trial_00004", (), "searched/trial_00004: holds no trial; name one such as "),
            ("searched", (), "searched: is a study; name one of its trials, such as "),
            ("searched/front.csv", (), "searched/front.csv: holds no trial; name one such as "),
            ("nothing/trial_00003", (), "nothing: holds no study"),
            ("searched/trial_00003", ("--variant", "published"), "--variant: a trial has the variant of its study"),
        ],
    )
    def test_what_is_no_trial_is_refused(self, tmp_path: Path, name: str, words: tuple[str, ...], named: str) -> None:
        (tmp_path / "searched").mkdir()
        self.study(tmp_path)
        said = said_by(main, "--trial", str(tmp_path / name), "--out", str(tmp_path / "runs"), *words)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert named in said.err
        assert not (tmp_path / "runs").exists()

    def test_the_command_that_goes_on_names_the_trial(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "searched").mkdir()
        trial = self.study(tmp_path)
        interrupt(monkeypatch, after=2)
        said = said_by(main, "--trial", str(trial), "--out", str(tmp_path / "runs"))
        assert said.code == 130
        assert f"cfamc_ray.train --trial {trial} --out {tmp_path / 'runs'} --resume" in said.out

"""The life of a study from Python: as the commands lead it, in a process that stays the caller's."""

import base64
import inspect
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import torch

import cfamc_ray.api
from cfamc_ray import InputError, Study, evaluate, open_study, run_study, train
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.evaluate import main as evaluate_command
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.store.lock import only_driver
from cfamc_ray.store.records import TrialFolder, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.terminal import TrainingView
from cfamc_ray.train import main as train_command
from cfamc_ray.tune import main as tune

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "benchmarks" / "results" / "studies"
SPACE: dict[str, Any] = {
    "name": "small",
    "question": "Is <it> worth it?",
    "budget": {"trials": 2},
    "trial": {
        "data": {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50},
        "encoder": {"width": 4, "prefeature_width": 4, "hidden_width": 4, "embedding_width": 4},
        "crops": {"views": 2},
        "pretraining": {"batch_images": 10, "epochs": 1},
        "evaluation": {"attack": {"steps": 1}},
    },
    "space": {"perturbation.epsilon": {"float": ["1/255", "16/255"]}},
}
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in HANDLED]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(dump_study(resolve_study({**SPACE}, source="the space")), encoding="utf-8")
    return path


class Runs:
    """In place of Ray: all trials of the budget end at once, or the first one alone before an interruption."""

    def __init__(self) -> None:
        self.configs: list[StudyConfig] = []
        self.details: list[str] = []
        self.interrupted = False

    def run_study(self, config: StudyConfig, folder: Path, *, detail: str, **_: Any) -> StopReason | None:
        self.configs.append(config)
        self.details.append(detail)
        trials = range(1 if self.interrupted else config.budget.trials)
        for number in trials:
            trial = TrialFolder(folder, number)
            trial.open({"perturbation.epsilon": (number + 1) / 255})
            scores = {"clean_accuracy": 0.5 + number / 10, "robust_accuracy": 0.5 - number / 10}
            trial.write_rows([{"epoch": 1, "done": True, **scores, "crop_passes": 10, "train_seconds": 0.1}])
        text = f"budget.trials {config.budget.trials} reached"
        return None if self.interrupted else StopReason("trials", text)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.run", SimpleNamespace(run_study=made.run_study))
    return made


class TestImport:
    @pytest.mark.parametrize("program", ["import cfamc_ray; dir(cfamc_ray)", "from cfamc_ray import open_study, Study"])
    def test_it_is_cheap(self, program: str) -> None:
        said = f"{program}; import sys; print({{'torch', 'ray', 'pandas', 'matplotlib', 'optuna'}} & {{*sys.modules}})"
        done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"

    def test_every_name_is_there_and_listed(self) -> None:
        assert {*cfamc_ray.__all__} <= {*dir(cfamc_ray)}
        assert all(getattr(cfamc_ray, name) is not None for name in cfamc_ray.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'tuna'"):
            _ = cfamc_ray.tuna  # type: ignore[attr-defined]


QUICK = pytest.mark.usefixtures("nothing_is_drawn", "few_points_are_checked")


def test_the_folder_is_what_the_command_makes_of_the_same_space(file: Path, tmp_path: Path, runs: Runs) -> None:
    run_study(SPACE, out=tmp_path / "mine")
    assert tune(["--space", str(file), "--out", str(tmp_path / "its")]) == 0
    mine, its = files(tmp_path / "mine" / "small"), files(tmp_path / "its" / "small")
    assert mine.keys() == its.keys()
    different = {name for name in mine if mine[name] != its[name]}
    assert different <= {"report/report.html"}, "which names its folder"


@QUICK
class TestRun:
    @pytest.mark.parametrize("given", ["file", "name", "mapping"])
    def test_a_space_is_a_file_a_name_or_a_mapping(
        self, given: str, file: Path, tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "search_spaces").mkdir()
        shutil.copy(file, tmp_path / "search_spaces" / "mine.yaml")
        space: Any = {"file": file, "name": "mine", "mapping": SPACE}[given]
        before = repr(SPACE)
        study = run_study(space, overrides=["budget.trials=3", "crops.views=4"])
        assert repr(SPACE) == before
        (config,) = runs.configs
        assert study.folder == tmp_path / "runs" / "small"
        assert study.config == config
        assert (config.budget.trials, config.trial.crops.views) == (3, 4)
        assert list(study.trials["trial_id"]) == [f"trial_0000{number}" for number in range(3)]

    @pytest.mark.parametrize("verbose", [False, True])
    def test_nothing_is_printed_unless_it_is_asked_for(
        self, verbose: bool, tmp_path: Path, runs: Runs, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_study(SPACE, out=tmp_path, verbose=verbose)
        said = capfd.readouterr()
        assert (bool(said.out), said.err) == (verbose, "")
        assert runs.details == ["normal" if verbose else "quiet"]

    def test_what_is_finished_is_not_run_again(self, tmp_path: Path, runs: Runs) -> None:
        for _ in range(2):
            run_study(SPACE, out=tmp_path)
        assert len(runs.configs) == 1

    def test_trials_of_an_earlier_study_are_taken_over(self, tmp_path: Path, runs: Runs) -> None:
        earlier = run_study(SPACE, out=tmp_path)
        later = {**SPACE, "name": "later"}
        assert run_study(later, out=tmp_path, warm_start=[earlier.folder]).trials["status"].tolist() == ["finished"] * 2
        assert TrialFolder(tmp_path / "later", 0).trial_file.read_text().count("small/trial_00000") == 0
        assert len(runs.configs) == 2

    def test_an_interruption_leaves_a_folder_that_goes_on(self, tmp_path: Path, runs: Runs) -> None:
        runs.interrupted = True
        with pytest.raises(KeyboardInterrupt):
            run_study(SPACE, out=tmp_path)
        study = open_study(tmp_path / "small")
        assert len(study.trials) == len(study.front) == 1
        assert (study.folder / "trials.csv").is_file()
        with pytest.raises(InputError, match="1 of 2 trials ended"):
            run_study(SPACE, out=tmp_path)
        runs.interrupted = False
        study = study.resume()
        assert len(study.trials) == 2
        assert len(run_study(SPACE, out=tmp_path, resume=True, overrides=["budget.trials=3"]).trials) == 3
        longer = study.resume(overrides=["budget.trials=4"])
        assert (len(longer.trials), longer.config.budget.trials) == (4, 4)
        assert open_study(study.folder).config == longer.config


@QUICK
class TestBadInput:
    @pytest.mark.parametrize(
        ("space", "given", "message"),
        [
            ("nothing", {}, "nothing: no such file, and no space of this name. Spaces at hand: "),
            (SPACE, {"overrides": ["budgt.trials=3"]}, "--set budgt.trials=3: there is no key 'budgt'; did you mean"),
            (SPACE, {"overrides": "budget.trials=3"}, r"overrides: write a list, \['budget.trials=3'\]"),
            (SPACE, {"resume": True}, "there is nothing to resume"),
            (SPACE, {"out": "s3://bucket"}, "s3://bucket: a study needs a folder that all its machines mount"),
            (SPACE, {"overrides": ["data.pretrain_images=99999"]}, "need 100049 training images, but digits has"),
            ({"budget": {"trials": 1}}, {}, "the space: the key name is missing"),
            (3, {}, "3: a space is a path, a name or a mapping"),
        ],
        ids=str,
    )
    def test_it_is_refused_and_nothing_is_written(
        self, space: Any, given: dict[str, Any], message: str, tmp_path: Path, runs: Runs
    ) -> None:
        with pytest.raises(InputError, match=message):
            run_study(space, **{"out": tmp_path / "runs", **given})
        assert (runs.configs, [*tmp_path.iterdir()]) == ([], [])

    def test_a_folder_of_another_study_is_refused_as_the_command_does(
        self, file: Path, tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_study(SPACE, out=tmp_path)
        with pytest.raises(InputError) as caught:
            run_study(SPACE, out=tmp_path, overrides=["crops.views=5"])
        assert tune(["--space", str(file), "--out", str(tmp_path), "--set", "crops.views=5"]) == 2
        assert capsys.readouterr().err == f"{caught.value}\n"
        assert "belongs to a study of another space (different: trial.crops.views)" in str(caught.value)
        with pytest.raises(InputError, match=r"different: trial\.crops\.views"):
            open_study(tmp_path / "small").resume(overrides=["crops.views=5"])

    def test_a_study_of_one_point_is_resumed_as_a_study_and_confirmed(self, tmp_path: Path, runs: Runs) -> None:
        folder = tmp_path / "small"
        folder.mkdir()
        write_config(folder, StudyConfig.model_validate({**SPACE, "space": {}, "budget": {"trials": 1}}))
        study = open_study(folder)
        assert study.is_run
        assert not study._with(["confirm.seeds=1"]).is_run
        (folder / "optuna.db").touch()
        assert not study.is_run
        study.resume()
        assert [config.name for config in runs.configs] == ["small"]

    def test_a_study_that_another_process_drives_is_refused(self, tmp_path: Path, runs: Runs) -> None:
        with only_driver(tmp_path / "small"), pytest.raises(InputError, match="another process is at work on it"):
            run_study(SPACE, out=tmp_path)

    def test_a_folder_without_a_study_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=re.escape(f"{tmp_path}: holds no study")):
            open_study(tmp_path)


@pytest.mark.parametrize("name", ["cifar_small", "quickstart", "scaling/learning"])
class TestRecorded:
    @pytest.fixture
    def study(self, name: str, tmp_path: Path) -> Study:
        return open_study(shutil.copytree(RECORDED / name, tmp_path / "copy"))

    @pytest.mark.parametrize("table", ["trials", "front"])
    def test_a_table_is_what_its_file_has(self, study: Study, table: str) -> None:
        path = study.folder / f"{table}.csv"
        if not path.exists():
            pytest.skip("it was not recorded")
        frame = getattr(study, table)
        pd.testing.assert_frame_equal(frame, pd.read_csv(path), rtol=0, atol=1e-15)
        assert all(frame[name].dtype.kind in "if" for name in [*study.config.objectives, "epochs", "crop_passes"])

    def test_looking_at_it_writes_nothing(self, study: Study) -> None:
        before = files(study.folder)
        page = study._repr_html_()
        assert files(study.folder) == before
        assert all(trial in page for trial in study.front["trial_id"])
        (figure,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
        assert base64.b64decode(figure).startswith(b"\x89PNG")
        assert study.config.name in page

    def test_its_report_is_a_page_that_recommends_the_same(self, study: Study) -> None:
        page = study.report()
        assert page == study.folder / "report" / "report.html"
        assert study.config.name in page.read_text(encoding="utf-8")
        recommended = study.recommended()
        pd.testing.assert_frame_equal(recommended, pd.read_csv(page.parent / "recommended.csv"), rtol=0, atol=1e-15)
        assert set(recommended["trial"]) <= {int(trial.removeprefix("trial_")) for trial in study.trials["trial_id"]}
        assert len(study.recommended(budget=40_000)) == len(recommended) + 1


@QUICK
class TestStudy:
    def test_what_is_missing_is_nan_and_no_word_means_that(self, tmp_path: Path) -> None:
        config = resolve_study(
            {**SPACE, "space": {"base": {"choice": ["cf-amc-ssl", "simclr-crops-pgd"]}}}, source="the space"
        )
        write_config(tmp_path, config)
        for number, (base, clean) in enumerate([("cf-amc-ssl", 0.5), (None, None)]):
            trial = TrialFolder(tmp_path, number)
            trial.open({"base": base})
            trial.write_rows([{"epoch": 1, "done": False, "clean_accuracy": clean}])
            trial.close("failed", "None")
        trials = open_study(tmp_path).trials
        assert trials["reason"].tolist() == ["None", "None"]
        assert trials["base"][0] == "cf-amc-ssl"
        assert trials["base"].isna().tolist() == trials["clean_accuracy"].isna().tolist() == [False, True]
        assert trials["clean_accuracy"].dtype == np.float64

    def test_one_that_has_not_begun_has_empty_tables_with_all_columns(self, tmp_path: Path) -> None:
        write_config(tmp_path, resolve_study({**SPACE}, source="the space"))
        study = open_study(tmp_path)
        assert len(study.trials) == len(study.front) == 0
        assert {"trial_id", "clean_accuracy", "perturbation.epsilon"} <= {*study.front.columns}
        assert "of 2 trials" in study._repr_html_()

    def test_its_page_shows_a_name_as_it_is_written(self, tmp_path: Path, runs: Runs) -> None:
        study = run_study(SPACE, out=tmp_path / "<b>")
        assert "<b>" not in study._repr_html_()

    def test_damaged_files_are_warned_of(
        self, tmp_path: Path, runs: Runs, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = run_study(SPACE, out=tmp_path).folder
        (folder / "trial_00000" / "trial.json").write_text("")
        assert len(open_study(folder).trials) == 1
        (record,) = caplog.record_tuples
        assert record[:2] == ("cfamc_ray.lifecycle.checks", logging.WARNING)
        assert str(folder / "trial_00000" / "trial.json") in record[2]
        assert capfd.readouterr() == ("", "")


@QUICK
class TestConfirm:
    @pytest.fixture(autouse=True)
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
        """In place of Ray: the studies whose front would have been trained anew, without a result."""
        asked: list[StudyConfig] = []

        def run_confirmation(config: StudyConfig, folder: Path, **_: Any) -> bool:
            asked.append(config)
            return True

        module = SimpleNamespace(run_confirmation=run_confirmation)
        monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.confirmation", module)
        return asked

    def test_it_returns_the_table_and_writes_it(self, tmp_path: Path, runs: Runs, asked: list[StudyConfig]) -> None:
        study = run_study(SPACE, out=tmp_path)
        assert asked == []
        table = study.confirm(overrides=["confirm={seeds: 2}"])
        assert [config.confirm.seeds for config in asked if config.confirm] == [2]
        pd.testing.assert_frame_equal(table, pd.read_csv(study.folder / "confirm.csv"))
        assert len(table) == len(study.front) == 2

    def test_what_exceeds_its_number_of_points_is_left_out_and_said(
        self, tmp_path: Path, runs: Runs, asked: list[StudyConfig], capsys: pytest.CaptureFixture[str]
    ) -> None:
        study = run_study(SPACE, out=tmp_path)
        capsys.readouterr()
        assert len(study.confirm(overrides=["confirm={points: 1}"], verbose=True)) == 1
        said = "confirm.points is 1; points of the front or near it that are left out: 1"
        assert said in capsys.readouterr().out.splitlines()

    def test_a_space_that_asks_for_it_is_confirmed_at_the_end(
        self, tmp_path: Path, runs: Runs, asked: list[StudyConfig]
    ) -> None:
        study = run_study({**SPACE, "confirm": {"seeds": 3}}, out=tmp_path)
        assert asked == [study.config]
        assert (study.folder / "confirm.csv").exists()

    def test_without_a_word_how_it_is_refused(self, tmp_path: Path, runs: Runs) -> None:
        with pytest.raises(InputError, match=re.escape("give overrides=['confirm.seeds=5']")):
            run_study(SPACE, out=tmp_path).confirm()


TINY = [
    *("data.name=digits", "data.pretrain_images=60", "data.probe_images=60", "data.validation_images=20"),
    *("crops.views=2", "encoder.width=4", "encoder.prefeature_width=4", "encoder.hidden_width=4"),
    *("encoder.embedding_width=4", "pretraining.batch_images=20", "pretraining.epochs=2"),
    *("evaluation.attacked_images=10", "evaluation.attack.steps=1", "resources.cpus_per_worker=1"),
]


class TestTrain:
    def test_it_is_a_study_of_one_trial_as_the_command_keeps_it(self, trained: Study, tmp_path: Path) -> None:
        assert trained.trials["status"].tolist() == ["finished"]
        assert trained.trials["epochs"].tolist() == [2]
        settings = [word for key in TINY for word in ("--set", key)]
        assert train_command(["--recipe", "cf-amc-ssl", "--out", str(tmp_path), "--device", "cpu", *settings]) == 0
        mine, its = trained.folder, tmp_path / "cf-amc-ssl"
        assert encoder_of(mine) == encoder_of(its)
        assert (mine / "study.yaml").read_bytes() == (its / "study.yaml").read_bytes()
        steady = [name for name in trained.trials if "seconds" not in name and "bytes" not in name]
        pd.testing.assert_frame_equal(trained.trials[steady], open_study(its).trials[steady])

    def test_its_encoder_is_a_module(self, trained: Study) -> None:
        encoder = cfamc_ray.load_encoder(TrialFolder(trained.folder, 0).encoder)
        assert isinstance(encoder, torch.nn.Module)

    @pytest.mark.parametrize("name", ["train", "evaluate"])
    @pytest.mark.parametrize("before", ["", "cfamc_ray.api", "command"], ids=["", "api", "command"])
    def test_the_name_is_that_of_a_command_s_module_and_can_be_called(self, name: str, before: str) -> None:
        first = f"import cfamc_ray, inspect, {before.replace('command', f'cfamc_ray.{name}') or 'sys'}"
        program = f"{first}\nassert cfamc_ray.{name}.main\nprint(*inspect.signature(cfamc_ray.{name}).parameters)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [*inspect.signature(getattr(cfamc_ray.api, name)).parameters]

    @pytest.mark.parametrize("verbose", [False, True])
    def test_a_space_and_a_trial_are_trained_and_the_process_is_left_as_it_was(
        self, verbose: bool, trained: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        torch.set_num_threads(2)
        given: dict[str, Any] = {"out": tmp_path, "device": "cpu", "verbose": verbose}
        given["overrides"] = ["resources.cpus_per_worker=1"]
        space = {key: value for key, value in SPACE.items() if key != "space"}
        before = handlers()
        assert train({**space, "start_from": ["cf-amc-ssl"]}, **given).trials["status"].tolist() == ["finished"]
        again = train(trained.folder / "trial_00000", name="again", **given)
        assert again.folder == tmp_path / "again"
        assert encoder_of(again.folder) == encoder_of(trained.folder)
        said = capfd.readouterr()
        assert (bool(said.out), said.err) == (verbose, "")
        assert (handlers(), torch.get_num_threads()) == (before, 2)
        torch.set_num_threads(1)

    @pytest.mark.parametrize("by_name", [False, True], ids=["Study.resume", "resume=True"])
    def test_an_interrupted_run_goes_on_to_the_same_encoder(
        self, by_name: bool, trained: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = TrialFolder(tmp_path / "cf-amc-ssl", 0)

        def interrupt(_: TrainingView, count: int = 1) -> None:
            if folder.epochs_file.exists():
                raise KeyboardInterrupt

        def go_on(**given: Any) -> Study:
            return train("cf-amc-ssl", out=tmp_path, overrides=TINY, device="cpu", **given)

        with monkeypatch.context() as patched:
            patched.setattr(TrainingView, "advance", interrupt)
            with pytest.raises(KeyboardInterrupt):
                go_on()
        assert open_study(tmp_path / "cf-amc-ssl").trials["epochs"].tolist() == [1]
        with pytest.raises(InputError, match="0 of 1 trials ended"):
            go_on()
        study = go_on(resume=True) if by_name else open_study(tmp_path / "cf-amc-ssl").resume()
        assert study.trials["epochs"].tolist() == [2]
        assert encoder_of(study.folder) == encoder_of(trained.folder)

    @pytest.mark.parametrize(
        ("what", "given", "message"),
        [
            ("cf-amc", {}, "cf-amc: no such file, and no space of this name.*Recipes: .*cf-amc-ssl"),
            (SPACE, {}, "a run has no space to search"),
            (SPACE, {"variant": "published"}, "variant: a space sets its own"),
            ("cf-amc-ssl", {"workers": 0}, "--workers 0: must be at least 1"),
            ("cf-amc-ssl", {"device": "gpu"}, "device 'gpu': must be one of auto, cpu, cuda"),
            ("cf-amc-ssl", {"resume": True}, "there is nothing to resume"),
            ("cf-amc-ssl", {"overrides": ["crops.veiws=2"]}, r"unknown key trial\.crops\.veiws"),
            ({"budget": {"trials": 1}}, {}, "the space: the key name is missing"),
            (3, {}, "3: a space is a path, a name or a mapping"),
        ],
        ids=str,
    )
    def test_bad_input_is_refused_and_nothing_is_written(
        self, what: Any, given: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=message):
            train(what, out=tmp_path / "runs", **given)
        assert [*tmp_path.iterdir()] == []


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A run of a recipe, which tests only read."""
    return train("cf-amc-ssl", out=tmp_path_factory.mktemp("runs"), overrides=TINY, device="cpu")


def encoder_of(run: Path) -> bytes:
    return TrialFolder(run, 0).encoder.read_bytes()


class TestEvaluate:
    QUICK = (
        *("images=20", "attack.steps=1", "attack.restarts=1", "epsilons=[4/255]"),
        *("autoattack_images=0", "autoattack_epsilons=[]"),
    )

    @pytest.fixture
    def run(self, trained: Study, tmp_path: Path) -> Path:
        return shutil.copytree(trained.folder, tmp_path / "run")

    def test_it_measures_and_records_what_the_command_does(self, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
        found = evaluate(open_study(run), overrides=self.QUICK, device="cpu")
        assert capfd.readouterr() == ("", "")
        mine = json.loads(found.path.read_text())
        settings = [word for key in self.QUICK for word in ("--set", key)]
        assert evaluate_command([str(run), "--device", "cpu", *settings]) == 0
        its = json.loads(found.path.read_text())
        for record in (mine, its):
            record["environment"].pop("date")
        assert {**mine, "seconds": 0} == {**its, "seconds": 0}
        assert found.results["accuracy"].tolist() == [each["accuracy"] for each in its["results"]]
        assert found.results["attack"].tolist()[:2] == ["none", "pgd"]
        assert found.results["epsilon"].tolist()[:2] == [0, 4 / 255]
        assert (found.results["low"] <= found.results["accuracy"]).all()
        assert all(attack in found._repr_html_() for attack in found.results["attack"])

    def test_initial_weights_a_head_and_a_file_of_one_s_own(self, run: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine" / "floor.json"
        found = evaluate(run, untrained=True, head="published-crops", overrides=self.QUICK, out=path)
        assert json.loads(path.read_text())["encoder"] == "untrained"
        assert found.path == path

    def test_what_was_computed_is_not_lost_where_it_cannot_be_written(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written") as caught:
            evaluate(run, overrides=self.QUICK, out=tmp_path / "file" / "record.json")
        (noted,) = caught.value.__notes__
        assert json.loads(noted)["results"][0]["attack"] == "none"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"protocol": "all"}, "protocol: there is no 'all'; there are standard, published-emp, published-simclr"),
            ({"head": "none"}, "head: there is no 'none'; there are "),
            ({"overrides": "images=20"}, r"overrides: write a list, \['images=20'\]"),
            ({"overrides": ["imges=20"]}, "unknown key imges; did you mean images?"),
            ({"run": "nothing"}, "nothing: no such folder"),
            ({"device": "tpu"}, "device 'tpu': must be one of auto, cpu, cuda"),
        ],
        ids=str,
    )
    def test_bad_input_is_refused(self, run: Path, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            evaluate(**{"run": run, **given})


@pytest.fixture
def stopped_ray() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.mark.long
@pytest.mark.usefixtures("stopped_ray")
class TestWithRay:
    def test_an_interrupted_study_goes_on_and_the_process_stays_the_caller_s(
        self, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        runs, first = tmp_path / "runs", TrialFolder(tmp_path / "runs" / "small", 0)
        over = threading.Event()

        def interrupt() -> None:
            while not (first.epochs_file.exists() or over.is_set()):
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

        before, streams = handlers(), (sys.stdout, sys.stderr)
        descriptors = [Path(f"/proc/self/fd/{number}").readlink() for number in (1, 2)]
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                run_study(SPACE, out=runs, overrides=["budget.trials=40"])
        finally:
            over.set()
        kept, ended = first.epochs_file.read_bytes(), len(open_study(runs / "small").trials)
        assert 1 <= ended < 40
        study = open_study(runs / "small").resume(overrides=[f"budget.trials={ended + 1}"])
        assert first.epochs_file.read_bytes() == kept
        assert study.trials["status"].tolist() == ["finished"] * (ended + 1)
        assert (handlers(), (sys.stdout, sys.stderr)) == (before, streams)
        assert [Path(f"/proc/self/fd/{number}").readlink() for number in (1, 2)] == descriptors
        assert not ray.is_initialized()
        assert capfd.readouterr() == ("", "")
        assert "Started a local Ray instance" in (study.folder / "ray.log").read_text()
        tables = {name: (study.folder / name).read_bytes() for name in ("trials.csv", "front.csv", "study.yaml")}
        assert tune(["--space", str(file), "--out", str(runs), "--trials", str(ended + 1)]) == 0
        assert {name: (study.folder / name).read_bytes() for name in tables} == tables, "as the command writes them"

    def test_the_caller_s_own_ray_is_used_and_left(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        connected = ray.get_runtime_context().gcs_address
        capfd.readouterr()
        logger = logging.getLogger("ray")
        before = logger.handlers, logger.propagate
        study = run_study(SPACE, out=tmp_path)
        assert study.trials["status"].tolist() == ["finished"] * 2
        assert capfd.readouterr() == ("", "")
        assert (logger.handlers, logger.propagate) == before
        assert ray.get_runtime_context().gcs_address == connected
        with pytest.raises(InputError, match=f"this process is connected to Ray at {connected}"):
            study.resume(overrides=["budget.trials=3"], address="127.0.0.1:1")
        with pytest.raises(InputError, match="need 64 CPUs, but there are 2"):
            study.resume(overrides=["budget.trials=3", "resources.cpus_per_worker=64"])
        assert ray.is_initialized()

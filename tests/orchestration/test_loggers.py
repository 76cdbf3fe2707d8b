"""Loggers of other tools: one run for each trial whatever happens to it, and a failure that ends nothing."""

import json
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_by_hand import operating_point, row, study
from pydantic import ValidationError
from test_nasty_paths import NASTY

from cfamc_ray.config.errors import InputError
from cfamc_ray.front.finalists import confirming_study
from cfamc_ray.lifecycle import checks
from cfamc_ray.lifecycle.plans import plan_run
from cfamc_ray.lifecycle.sources import recipe_source, run_source
from cfamc_ray.orchestration import session
from cfamc_ray.orchestration.loggers import Run, TrialLogger, build_loggers, metrics_of, study_id
from cfamc_ray.space.reading import proxy_study
from cfamc_ray.store.records import TrialFolder, TrialRecord

POINT = {"crops.views": 4, "perturbation.epsilon": 8 / 255}
CONFIG = study(loggers=["mlflow"])


class Noting:
    """A logger that notes its calls, and may fail."""

    def __init__(self, *, earlier: int = 0, fails_at: int = 0) -> None:
        self.calls: list[tuple[str, object]] = []
        self.earlier, self.fails_at = earlier, fails_at

    def setup(self) -> None:
        self.calls.append(("setup", ""))

    def epochs_logged(self, run: Run) -> int:
        return self.earlier

    def is_complete(self, record: TrialRecord) -> bool:
        return False

    def log_trial_start(self, trial: Run) -> None:
        self.calls.append(("start", str(trial)))

    def log_trial_result(self, iteration: int, trial: Run, result: Mapping[str, float]) -> None:
        if result["epoch"] == self.fails_at:
            raise ConnectionError("the server is gone")
        self.calls.append((str(trial), result["epoch"]))

    def log_trial_end(self, trial: Run, failed: bool = False) -> None:
        self.calls.append(("end", failed))

    def on_experiment_end(self, trials: object) -> None:
        self.calls.append(("over", ""))


def tune_trial(number: int) -> Any:
    return SimpleNamespace(config={"number": number, "point": POINT})


def written(folder: Path, number: int, epochs: int, *, of: int = 3) -> TrialFolder:
    """A trial of which some epochs are there."""
    trial = TrialFolder(folder, number)
    trial.open(POINT)
    trial.write_rows([row(epoch, done=epoch == of, loss=1 / epoch) for epoch in range(1, epochs + 1)])
    return trial


def logger_of(folder: Path, noting: Noting, said: Callable[[str], object] = print) -> TrialLogger:
    logger = TrialLogger("mlflow", CONFIG, folder, said, lambda _: noting)
    logger.setup()
    return logger


def test_each_epoch_is_sent_once_also_when_the_trial_is_restarted(tmp_path: Path) -> None:
    noting = Noting()
    logger = logger_of(tmp_path, noting)
    logger.on_trial_start(0, [], tune_trial(7))
    for epochs in (1, 2):
        written(tmp_path, 7, epochs)
        logger.on_trial_result(0, [], tune_trial(7), {"done": True})
    logger.on_trial_error(0, [], tune_trial(7))
    logger.on_trial_start(0, [], tune_trial(7))
    written(tmp_path, 7, 3)
    logger.on_trial_complete(0, [], tune_trial(7))
    logger.on_experiment_end([])
    name = "trial_00007"
    sent = [("start", name), (name, 1), (name, 2), (name, 3), ("end", False)]
    assert noting.calls == [("setup", ""), *sent, ("over", "")]


def test_a_trial_that_fails_ends_as_failed_and_a_fork_has_the_epochs_of_its_trunk(tmp_path: Path) -> None:
    noting = Noting()
    logger = logger_of(tmp_path, noting)
    written(tmp_path, 0, 2).close("failed", "diverged", "diverged")
    logger.on_trial_complete(0, [], tune_trial(0))
    assert noting.calls[1:] == [("start", "trial_00000"), ("trial_00000", 1), ("trial_00000", 2), ("end", True)]


def test_what_is_there_when_a_command_begins_is_sent_without_the_epochs_that_its_run_has(tmp_path: Path) -> None:
    written(tmp_path, 0, 3)
    noting = Noting(earlier=2)
    logger_of(tmp_path, noting)
    assert noting.calls == [("setup", ""), ("start", "trial_00000"), ("trial_00000", 3), ("end", False)]


def test_a_logger_that_fails_is_told_of_once_and_gets_nothing_more(tmp_path: Path) -> None:
    noting, said = Noting(fails_at=2), list[str]()
    logger = logger_of(tmp_path, noting, said.append)
    for epochs in (1, 2, 3):
        written(tmp_path, 0, epochs)
        logger.on_trial_result(0, [], tune_trial(0), {})
    logger.on_experiment_end([])
    assert noting.calls == [("setup", ""), ("start", "trial_00000"), ("trial_00000", 1)]
    assert said == [logger.failure]
    assert "loggers: mlflow failed" in logger.failure
    assert "ConnectionError: the server is gone" in logger.failure


def test_metrics_have_the_names_of_the_tables_and_operating_points_their_strength() -> None:
    points = [operating_point(0.01, 0.5, 0.25), operating_point(1e-5, 0.625, 0.125)]
    metrics = metrics_of(
        {"epoch": 2, "done": True, "loss": 0.5, "clipped_share": None, "device": "cpu", "operating_points": points}
    )
    assert metrics == {
        "epoch": 2,
        "loss": 0.5,
        "probe_accuracy/l2_0.01": 1.0,
        "clean_accuracy/l2_0.01": 0.5,
        "robust_accuracy/l2_0.01": 0.25,
        "probe_accuracy/l2_1e-05": 1.0,
        "clean_accuracy/l2_1e-05": 0.625,
        "robust_accuracy/l2_1e-05": 0.125,
    }
    assert metrics_of({"epoch": 1, "loss": float("nan"), "operating_points": []}) == {"epoch": 1}


def test_a_study_keeps_its_id_and_no_other_has_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert study_id(one) == study_id(one) != study_id(other)
    (one / "loggers.json").write_text("{")
    assert study_id(one) == study_id(one)


def test_loggers_are_named_once_and_only_those_that_are_known() -> None:
    callbacks = build_loggers(study(loggers=["wandb", "mlflow", "wandb"]), Path(), print)
    assert [callback.name for callback in callbacks] == ["wandb", "mlflow"]
    assert study().loggers == ()
    with pytest.raises(ValidationError, match="'mlflow' or 'wandb'"):
        study(loggers=["tensorboard"])


@pytest.mark.parametrize("found", [None, ModuleSpec("mlflow", None)], ids=["nothing", "a mere folder"])
def test_a_logger_that_is_not_installed_is_refused(found: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda _: found)
    checks.check_loggers(study())
    with pytest.raises(InputError, match=r"mlflow is not installed: pip install 'cfamc_ray\[mlflow\]'"):
        checks.check_loggers(CONFIG)


def test_processes_on_other_machines_know_the_settings_but_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CFAMC_DATA", "WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "x")
    passed = session._passed_on()
    assert passed.keys() >= {"CFAMC_DATA", "WANDB_MODE"}
    assert not passed.keys() & {"WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"}


def test_only_the_study_itself_is_logged(tmp_path: Path) -> None:
    config = study(loggers=["mlflow"], search={"proxy": ["pretraining.epochs=1"]}, confirm={"seeds": 2})
    assert proxy_study(config).loggers == ()
    record = TrialRecord(0, POINT, [row(1, done=True)], "finished")
    confirming = confirming_study(config, [record], [])
    assert confirming is not None
    assert confirming.loggers == ()
    assert "loggers" not in run_source({"name": "one", "loggers": ["mlflow"]}, "corrected").keys
    with pytest.raises(InputError, match="--set loggers: a run has none"):
        plan_run(recipe_source("cf-amc-ssl", "corrected"), overrides=["loggers=[mlflow]"], device="cpu")


class TestMlflow:
    """With its real store, in the study's folder; trials are written by hand."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        pytest.importorskip("mlflow", reason="mlflow is not installed (the extra mlflow)")
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / NASTY
        folder.mkdir()
        return folder

    def command(self, folder: Path) -> TrialLogger:
        (logger,) = build_loggers(CONFIG, folder, print)
        logger.setup()
        assert not logger.failure
        return logger

    def test_a_trial_goes_on_in_its_run_after_any_end(self, folder: Path) -> None:
        first = self.command(folder)
        written(folder, 0, 1)
        first.on_trial_result(0, [], tune_trial(0), {})
        assert [run.info.status for run in runs_in(folder)] == ["RUNNING"]
        written(folder, 0, 2)  # of which MLflow is not told before the command is killed
        second = self.command(folder)
        second.on_trial_start(0, [], tune_trial(0))
        written(folder, 0, 3)
        second.on_trial_result(0, [], tune_trial(0), {})
        written(folder, 1, 3)  # neither of its beginning nor of its end
        self.command(folder)
        runs = runs_in(folder)
        assert [(run.info.run_name, run.info.status) for run in runs] == [
            ("trial_00000", "FINISHED"),
            ("trial_00001", "FINISHED"),
        ]
        for run in runs:
            assert run.data.params == {key: str(value) for key, value in POINT.items()}
            assert history(folder, run, "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
        assert {path.name for path in folder.parent.iterdir()} == {NASTY}
        assert {path.name for path in folder.iterdir()} >= {"mlflow.db", "loggers.json"}

    def test_another_study_of_the_same_name_has_runs_of_its_own(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared, other = folder / "shared", folder / "other"
        shared.mkdir()
        other.mkdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parent / 'mlflow.db'}")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        for study_folder in (shared, other):
            written(study_folder, 0, 3)
            self.command(study_folder)
        runs = runs_in(folder.parent, experiment="mine")
        tags = [run.data.tags["study"] for run in runs]
        assert sorted(tags) == sorted(
            json.loads((each / "loggers.json").read_text())["study"] for each in (shared, other)
        )
        assert len({*tags}) == 2


def client_of(folder: Path) -> Any:
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 (optional)

    from cfamc_ray.orchestration.mlflow_runs import store_uri  # noqa: PLC0415

    return MlflowClient(store_uri(folder))


def runs_in(folder: Path, experiment: str = "made") -> list[Any]:
    """The runs of an experiment by name; no other experiment has any."""
    client = client_of(folder)
    named = {each.name: each.experiment_id for each in client.search_experiments()}
    assert named.keys() == {"Default", experiment}
    assert not client.search_runs([named["Default"]])
    return sorted(client.search_runs([named[experiment]]), key=lambda run: str(run.info.run_name))


def history(folder: Path, run: Any, metric: str) -> list[tuple[int, float]]:
    values = client_of(folder).get_metric_history(run.info.run_id, metric)
    return sorted((each.step, each.value) for each in values)

"""Real studies by the real command, logged to MLflow and to Weights & Biases, without a network."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Command, wait_until
from test_study_runs import SPACE, run

from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.store.records import read_trials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POINT = ("crops.views", "perturbation.epsilon")
COMPARED = ("clean_accuracy", "robust_accuracy", "crop_passes", "flops", "train_seconds")
BLOCK = 32768
"""Bytes of a block in a file of Weights & Biases."""


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_yaml(SPACE))
    return path


@pytest.fixture
def study(space: Path) -> Path:
    return space.parent / "runs" / "tiny"


def table(study: Path) -> dict[str, dict[str, str]]:
    with (study / "trials.csv").open() as file:
        return {row["trial_id"]: row for row in csv.DictReader(file)}


class TestMlflow:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("mlflow", reason="mlflow is not installed (the extra mlflow)")

    def assert_logged(self, study: Path, trials: int) -> None:
        """The store has one run for each trial, with the values of trials.csv and each epoch once."""
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 (optional)

        client: Any = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")  # as a person writes it
        (experiment,) = (each for each in client.search_experiments() if each.name != "Default")
        runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
        rows = table(study)
        assert experiment.name == "tiny"
        assert len(client.search_runs([experiment.experiment_id])) == len(rows) == trials
        assert runs.keys() == rows.keys()
        for trial_id, each in runs.items():
            row, metrics = rows[trial_id], each.data.metrics
            assert each.info.status == "FINISHED"
            assert {key: float(each.data.params[key]) for key in POINT} == {key: float(row[key]) for key in POINT}
            assert {name: metrics[name] for name in COMPARED} == {name: float(row[name]) for name in COMPARED}
            for name in ("epoch", "clean_accuracy/l2_0.01"):
                steps = [value.step for value in client.get_metric_history(each.info.run_id, name)]
                assert sorted(steps) == list(range(1, int(row["epochs"]) + 1))

    @pytest.mark.long
    def test_each_trial_is_a_run_also_after_more_trials(self, space: Path, study: Path) -> None:
        for trials, *resume in ((2,), (3, "--resume")):
            code, output = run(space, "--set", "loggers=[mlflow]", "--trials", str(trials), *resume)
            assert code == 0, output
            assert "warning" not in output
            self.assert_logged(study, trials)

    @pytest.mark.long
    def test_a_killed_study_goes_on_in_its_runs(self, space: Path, study: Path) -> None:
        words = ("--set", "loggers=[mlflow]", "--set", "pretraining.epochs=20", "--trials", "3")
        command = Command(space, *words)
        wait_until(lambda: any(len(record.rows) > 1 for record in read_trials(study)))
        command.kill()
        command.process.wait(timeout=120)
        assert not all(record.ended for record in read_trials(study))
        code, output = run(space, *words, "--resume")
        assert code == 0, output
        self.assert_logged(study, 3)

    @pytest.mark.long
    def test_a_store_that_cannot_be_reached_does_not_end_the_study(
        self, space: Path, study: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
        code, output = run(space, "--set", "loggers=[mlflow]", "--trials", "1")
        assert code == 0, output
        assert "warning: loggers: mlflow failed and gets nothing more" in output
        assert "Traceback" not in output
        assert [row["status"] for row in table(study).values()] == ["finished"]
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        code, output = run(space, "--set", "loggers=[mlflow]", "--trials", "2", "--resume")
        assert code == 0, output
        self.assert_logged(study, 2)


def test_each_trial_is_a_run_of_weights_and_biases(space: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (the extra wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, output = run(space, "--set", "loggers=[wandb]", "--trials", "2")
    assert code == 0, output
    assert "warning" not in output
    rows, runs = table(study), [offline_run(path) for path in (study / "wandb").glob("offline-run-*/*.wandb")]
    assert sorted(each["name"] for each in runs) == sorted(rows)
    (identity,) = {each["id"].removesuffix(f"-{each['name']}") for each in runs}
    assert identity == json.loads((study / "loggers.json").read_text())["study"]
    for each in runs:
        row, epochs = rows[each["name"]], each["history"]
        assert each["project"] == each["group"] == "tiny"
        assert {key: each["config"][key] for key in POINT} == {key: float(row[key]) for key in POINT}
        assert [epoch["_step"] for epoch in epochs] == [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
        assert {name: epochs[-1][name] for name in COMPARED} == {name: float(row[name]) for name in COMPARED}


def offline_run(path: Path) -> dict[str, Any]:
    """Name, place, parameters and epochs of a run that Weights & Biases has written to a file."""
    found: dict[str, Any] = {"history": []}
    for record in wandb_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            found |= {"id": record.run.run_id, "name": record.run.display_name, "config": config}
            found |= {"project": record.run.project, "group": record.run.run_group}
        elif kind == "history":
            items = record.history.item
            found["history"].append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
    return found


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a log in LevelDB's format, after 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415 (optional)

    content, at, whole = path.read_bytes(), 7, b""
    while at < len(content):
        left = BLOCK - at % BLOCK
        if left < 7:  # a header of 4 bytes checksum, 2 bytes size and 1 byte type does not fit
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record

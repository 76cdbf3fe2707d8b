import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]

from cfamc_ray.tensorboard import SCALARS, TrialEvents

POINT = {"crops.views": 4, "optimizer.lr": 0.3, "perturbation.carry": True, "base": "cf-amc-ssl", "data.path": None}
ACCURACIES = {
    "clean_accuracy": "accuracy/clean",
    "robust_accuracy": "accuracy/robust",
    "probe_accuracy": "accuracy/probe",
}


def row(epoch: int, *, done: bool = False, **changes: Any) -> dict[str, Any]:
    """A number for every metric, which tells its epoch and which metric it is."""
    values = {metric: epoch + position / 100 for position, metric in enumerate(SCALARS.values())}
    return {**values, "epoch": epoch, "done": done, **changes}


def unmeasured(epoch: int, *, done: bool = False) -> dict[str, Any]:
    return row(epoch, done=done, **dict.fromkeys(ACCURACIES, math.nan))


def write(folder: Path, *rows: Mapping[str, Any], point: Mapping[str, Any] = POINT, first_epoch: int = 1) -> None:
    events = TrialEvents(folder, point, first_epoch=first_epoch)
    for values in rows:
        events.write(values)
    events.close()


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def series(folder: Path, name: str) -> list[tuple[int, Any]]:
    accumulator = read(folder)
    if name not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(name)]


def hyperparameters(folder: Path) -> dict[str, Any]:
    content = read(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    info = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in info.hparams.items()}


def test_every_metric_is_a_series_over_the_epochs(tmp_path: Path) -> None:
    rows = [row(1), row(2), row(3, done=True)]
    write(tmp_path, *rows)
    for name, metric in SCALARS.items():
        assert series(tmp_path, name) == [(values["epoch"], values[metric]) for values in rows]


def test_accuracies_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    rows = [unmeasured(1), row(2), unmeasured(3), row(4, done=True)]
    write(tmp_path, *rows)
    for metric, name in ACCURACIES.items():
        assert series(tmp_path, name) == [(epoch, rows[epoch - 1][metric]) for epoch in (2, 4)]
    assert [step for step, _ in series(tmp_path, "loss/total")] == [1, 2, 3, 4]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_is_missing_or_not_finite_is_left_out(tmp_path: Path, missing: float | None) -> None:
    write(tmp_path, row(1, clipped_share=missing), row(2))
    assert [step for step, _ in series(tmp_path, "optimizer/clipped share")] == [2]


def test_a_finished_trial_has_its_point_and_its_last_accuracies(tmp_path: Path) -> None:
    rows = [row(1), row(2, done=True)]
    write(tmp_path, *rows)
    assert hyperparameters(tmp_path) == {**POINT, "data.path": "None"}
    for metric in ("clean_accuracy", "robust_accuracy"):
        assert [value for _, value in series(tmp_path, f"final/{metric}")] == [rows[-1][metric]]


def test_an_unfinished_trial_has_no_point(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2))
    assert "_hparams_/session_start_info" not in read(tmp_path).summary_metadata


def test_a_finished_trial_without_accuracies_has_its_point_alone(tmp_path: Path) -> None:
    write(tmp_path, unmeasured(1), unmeasured(2, done=True))
    assert hyperparameters(tmp_path) == {**POINT, "data.path": "None"}
    assert not [name for name in read(tmp_path).Tags()["scalars"] if name.startswith(("final/", "accuracy/"))]


@pytest.mark.parametrize("values", [row(1, done=True), unmeasured(1, done=True)], ids=["measured", "unmeasured"])
def test_a_trial_without_searched_keys_has_an_empty_point(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path, values, point={})
    assert hyperparameters(tmp_path) == {}


def test_what_an_interrupted_run_wrote_from_the_next_epoch_on_is_hidden(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2, loss=99.0))
    write(tmp_path, row(2), row(3), first_epoch=2)
    assert series(tmp_path, "loss/total") == [(epoch, row(epoch)["loss"]) for epoch in (1, 2, 3)]

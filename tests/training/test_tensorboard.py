import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]

from cfamc_ray.config.measures import MEASURES
from cfamc_ray.figures.chart import Axis, Chart, Panel
from cfamc_ray.figures.static import draw
from cfamc_ray.metrics import METRICS, objectives
from cfamc_ray.training.tensorboard import VIEWS, StudyEvents, TrialEvents, crop_grids

SCALARS = {metric.scalar: metric.name for metric in METRICS.values() if metric.scalar}
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


def write(
    folder: Path, *rows: Mapping[str, Any], point: Mapping[str, Any] = POINT, earlier: Sequence[Mapping[str, Any]] = ()
) -> None:
    events = TrialEvents(folder, point, earlier=earlier)
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


def compared(folder: Path) -> set[str]:
    """Tags of the metrics that the HParams page shows."""
    content = read(folder).summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    return {info.name.tag for info in experiment.metric_infos}


@pytest.mark.parametrize("done", [False, True])
def test_from_the_first_epoch_on_a_trial_has_its_point_beside_all_that_may_be_an_objective(
    tmp_path: Path, done: bool
) -> None:
    write(tmp_path, row(1, done=done))
    assert hyperparameters(tmp_path) == {**POINT, "data.path": "None"}
    everywhere = set(objectives()) - MEASURES.classes.keys()
    assert compared(tmp_path) == {name for name, metric in SCALARS.items() if metric in everywhere}
    assert len(compared(tmp_path)) == len(everywhere) == 5
    assert ("_hparams_/session_end_info" in read(tmp_path).summary_metadata) is done


def test_a_finished_trial_without_accuracies_has_its_point_alone(tmp_path: Path) -> None:
    write(tmp_path, unmeasured(1), unmeasured(2, done=True))
    assert hyperparameters(tmp_path) == {**POINT, "data.path": "None"}
    assert not [name for name in read(tmp_path).Tags()["scalars"] if name.startswith("accuracy/")]


@pytest.mark.parametrize("values", [row(1, done=True), unmeasured(1, done=True)], ids=["measured", "unmeasured"])
def test_a_trial_without_searched_keys_has_an_empty_point(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path, values, point={})
    assert hyperparameters(tmp_path) == {}


def test_what_an_interrupted_run_wrote_from_the_next_epoch_on_is_hidden(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2, loss=99.0))
    write(tmp_path, row(2), row(3), earlier=[row(1)])
    assert series(tmp_path, "loss/total") == [(epoch, row(epoch)["loss"]) for epoch in (1, 2, 3)]


def test_a_fork_has_the_epochs_of_its_trunk_and_its_own_point(tmp_path: Path) -> None:
    write(tmp_path, row(3), row(4, done=True), earlier=[row(1), row(2)])
    assert series(tmp_path, "loss/total") == [(epoch, row(epoch)["loss"]) for epoch in (1, 2, 3, 4)]
    assert hyperparameters(tmp_path) == {**POINT, "data.path": "None"}


def test_crops_perturbed_crops_and_the_magnified_perturbation_are_pictures(tmp_path: Path) -> None:
    crops_VbCHW = torch.rand(10, 3, 3, 8, 8)
    events = TrialEvents(tmp_path, POINT, earlier=[])
    events.write(row(1), (crops_VbCHW, torch.zeros_like(crops_VbCHW)), epsilon=0.1)
    events.close()
    names = ["crops/perturbation, ε from black to white", "crops/perturbed", "crops/plain"]
    assert sorted(read(tmp_path).Tags()["images"]) == names
    (picture,) = read(tmp_path).Images("crops/plain")
    assert (picture.step, picture.height, picture.width) == (1, 3 * 9 + 1, VIEWS * 9 + 1), "a row for each image"


def test_a_perturbation_of_epsilon_is_black_or_white_and_none_is_grey() -> None:
    crops_VbCHW = torch.full((2, 1, 3, 4, 4), 0.9)
    delta_VbCHW = torch.stack([torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), -0.2)])
    plain, perturbed, magnified = crop_grids(crops_VbCHW, delta_VbCHW, epsilon=0.2).values()
    left, right = (slice(None), slice(1, 5), slice(1, 5)), (slice(None), slice(1, 5), slice(6, 10))
    assert torch.allclose(plain[left], torch.tensor(0.9))
    assert torch.allclose(perturbed[left], torch.tensor(1.0)), "no pixel is brighter than white"
    assert torch.allclose(perturbed[right], torch.tensor(0.7))
    assert torch.allclose(magnified[left], torch.tensor(1.0))
    assert torch.allclose(magnified[right], torch.tensor(0.0), atol=1e-6)
    none = crop_grids(crops_VbCHW, torch.zeros_like(delta_VbCHW), epsilon=0.0)
    assert torch.allclose(list(none.values())[2][left], torch.tensor(0.5))


def test_a_study_shows_its_front_and_hypervolume_over_finished_trials(tmp_path: Path) -> None:
    front = draw(Chart("front", "", [Panel(Axis("x"), Axis("y"), [], missing="none")]))
    for first, volumes in ((0, [0.1, 0.2, 0.3]), (2, [0.25, 0.35])):
        events = StudyEvents(tmp_path, first_step=first)
        for finished, volume in enumerate(volumes, start=first):
            events.write(finished, volume, front)
        events.close()
    expected = [(0, 0.1), (1, 0.2), (2, 0.25), (3, 0.35)]
    assert series(tmp_path, "study/hypervolume") == expected, "what an interrupted run wrote later is hidden"
    assert [picture.step for picture in read(tmp_path).Images("study/front")] == [0, 1, 2, 3]


def test_each_operating_point_is_a_series_of_clean_and_robust_accuracy(tmp_path: Path) -> None:
    def points(epoch: int) -> list[dict[str, float]]:
        return [
            {"l2": l2, "probe_accuracy": 0.9, "clean_accuracy": 0.5 * epoch, "robust_accuracy": l2 * epoch}
            for l2 in (0.001, 0.1)
        ]

    write(tmp_path, row(1, operating_points=points(1)), row(2), row(3, done=True, operating_points=points(3)))
    assert series(tmp_path, "operating points/clean accuracy/L2 0.001") == [(1, 0.5), (3, 1.5)]
    assert series(tmp_path, "operating points/robust accuracy/L2 0.1") == [(1, 0.1), (3, 0.3)]
    names = [name for name in read(tmp_path).Tags()["scalars"] if name.startswith("operating points/")]
    assert len(names) == 4
    assert not any(name.startswith("operating points/") for name in compared(tmp_path))

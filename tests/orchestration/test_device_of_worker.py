"""Every process that trains, measures or tests takes its device before it does anything with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cfamc_ray.config.confirm import ConfirmConfig
from cfamc_ray.config.resources import ResourceConfig
from cfamc_ray.config.scaling import Cell, SystemConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.orchestration import cells, confirmation, trainables
from cfamc_ray.orchestration.packing import pack
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.training import recording

HALF = ResourceConfig(gpus_per_worker=0.5, trials_at_once=2)
STUDY = StudyConfig(name="shared", resources=HALF, confirm=ConfirmConfig())
CUDA = torch.device("cuda")


class Begun(Exception):  # noqa: N818 (no error)
    """A worker has taken its device."""


def train(folder: Path) -> None:
    next(recording.run_recorded(STUDY, TrialFolder(folder, 0), {}, DistributedContext(device=CUDA)))


def train_reused(folder: Path) -> None:
    trial = object.__new__(trainables.OneWorkerTrial)
    trial._study, trial._folder, trial._crash_report = STUDY, folder, None
    trial.reset_config({"number": 0, "point": {}})
    try:
        trial.step()
    finally:
        trial.cleanup()


def measure(_: Path) -> None:
    cell = pack(Cell(1, {}, TrialConfig(), "half a GPU"), ())
    cells.CellWorker().measure(cell, SystemConfig(), HALF, 0, "tcp://nowhere:1")


def confirm(folder: Path) -> None:
    confirmation.test_encoder(pack(STUDY, ()), folder, 0, 0.1, [])


@pytest.mark.parametrize("work", [train, train_reused, measure, confirm], ids=lambda work: work.__name__)
def test_a_worker_takes_its_share_of_the_gpu_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], None]
) -> None:
    def begin(device: torch.device, share: float) -> None:
        raise Begun(device, share)

    for module in (recording, cells, confirmation):
        monkeypatch.setattr(module, "use_device", begin)
    threads = torch.get_num_threads()
    try:
        with pytest.raises(Begun) as begun:
            work(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert begun.value.args == (CUDA, 0.5)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), "out of memory: CUDA out of memory."),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
    ],
    ids=str,
)
def test_an_encoder_whose_test_needs_more_than_its_share_is_noted_and_the_others_are_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str | None
) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(confirmation, "measure_on", fails)
    monkeypatch.setattr(confirmation, "load_encoder", lambda _: None)
    monkeypatch.setattr(confirmation, "describe_test", lambda *_, **__: {"images": 9})
    monkeypatch.setattr(confirmation, "use_device", lambda *_: None)
    monkeypatch.setattr(confirmation, "keep_freed_memory", lambda: None)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    folder = TrialFolder(tmp_path, 0)
    folder.open({})
    if problem is None:
        with pytest.raises(RuntimeError, match="device-side assert"):
            confirm(tmp_path)
        return
    tested = confirmation.test_encoder(pack(STUDY, ()), tmp_path, 0, 0.1, [])
    assert (tested.l2, tested.accuracies, tested.problem) == (0.1, {}, problem)

"""What an exception means for its trial, and what a trial leaves in its process."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_trials import tiny_config, tiny_splits

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.training import recording
from cfamc_ray.training import trial as trial_module
from cfamc_ray.training.recording import Row, ends_trial, run_recorded
from cfamc_ray.training.trial import OutOfTime, Trial, TrialFailed

CUDA = "CUDA error: {}\nCUDA kernel errors might be asynchronously reported at some other API call."
ASSERTED = CUDA.format("device-side assert triggered")
ALLOCATED = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
NO_CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
NO_CUDNN = "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
NO_CUSOLVER = "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"
NO_TRITON = "Triton Error [CUDA]: out of memory"
NO_NCCL = "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nCuda failure 2 'out of memory'"
NO_CPU = (
    "[enforce fail at alloc_cpu.cpp:122] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OutOfTime("too long"), ("stopped", "too long")),
        (TrialFailed("diverged"), ("failed", "diverged")),
        (torch.OutOfMemoryError("too much\nmany details"), ("failed", "out of memory: too much")),
        (torch.OutOfMemoryError(ALLOCATED), ("failed", f"out of memory: {ALLOCATED}")),
        (torch.AcceleratorError(CUDA.format("out of memory")), ("failed", "out of memory: CUDA error: out of memory")),
        (RuntimeError(NO_CUBLAS), ("failed", f"out of memory: {NO_CUBLAS}")),
        (RuntimeError(NO_CUDNN), ("failed", f"out of memory: {NO_CUDNN}")),
        (RuntimeError(NO_CUSOLVER), ("failed", f"out of memory: {NO_CUSOLVER}")),
        (RuntimeError(NO_TRITON), ("failed", f"out of memory: {NO_TRITON}")),
        (dist.DistBackendError(NO_NCCL), ("failed", f"out of memory: {NO_NCCL.splitlines()[0]}")),
        (RuntimeError(NO_CPU), ("failed", f"out of memory: {NO_CPU}")),
        (MemoryError(), ("failed", "out of memory: MemoryError")),
        (ValueError("odd"), ("failed", "ValueError: odd")),
        (ValueError("out of memory"), ("failed", "ValueError: out of memory")),
        (RuntimeError("shapes"), ("failed", "RuntimeError: shapes")),
        (RuntimeError(MIXED), ("failed", f"RuntimeError: {MIXED}")),
        (RuntimeError("CUDA error: unspecified launch failure"), None),
        (torch.AcceleratorError(ASSERTED), None),
        (torch.AcceleratorError("a device is lost"), None),
        (RuntimeError(ASSERTED), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle, ...)`"), None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), None),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnXpotrf(...)`"), None),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), None),
        (RuntimeError("NCCL Error 1: unhandled cuda error"), None),
        (dist.DistBackendError("NCCL communicator was aborted"), None),
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection reset by peer"), None),
    ],
    ids=lambda value: str(value).partition("\n")[0][:70],
)
def test_an_error_ends_the_trial_unless_a_fresh_process_may_do_better(
    error: Exception, outcome: tuple[str, str] | None
) -> None:
    ending = ends_trial(error)
    assert (ending and (ending[0], ending[1].text)) == outcome


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfTime("too long"), "time_limit"),
        (TrialFailed("diverged"), "diverged"),
        (MemoryError(), "out_of_memory"),
        (KeyError("a"), "error"),
    ],
    ids=str,
)
def test_the_reason_of_an_ending_has_a_kind(error: Exception, kind: str) -> None:
    ending = ends_trial(error)
    assert ending is not None
    assert ending[1].kind == kind


def test_an_error_has_the_place_where_it_was_raised_as_its_origin() -> None:
    origins = []
    for words in ("one", "another"):
        try:
            int(words)
        except ValueError as error:
            ending = ends_trial(error)
            assert ending is not None
            origins.append(ending[1].origin)
    assert origins[0] == origins[1]
    assert origins[0].startswith(f"ValueError at {__file__}:")


Begin = Callable[[int], Iterator[Row]]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Rows of a trial of tiny images, by its number."""
    study = StudyConfig.model_validate({"name": "tiny", "trial": tiny_config().model_dump(mode="json")})
    monkeypatch.setattr(recording, "load_splits", lambda *_, **__: tiny_splits())
    monkeypatch.setattr(recording, "keep_freed_memory", lambda: None)  # for this process's whole life
    return lambda number: run_recorded(study, TrialFolder(tmp_path, number), {}, DistributedContext())


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """What is left of the trials so far at each time at which a GPU's cache is emptied."""
    held: dict[str, Callable[[], object]] = {}
    emptied: list[list[str]] = []

    class Watched(Trial):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.itself = self  # as what is compiled may hold its trial
            parts = {
                "trial": self,
                "weights": next(self.trainer.encoder.parameters()),
                "optimizer": self.trainer.optimizer,
                "images": self.minibatches.images.images_NCHW,
                "delta": self.trainer.delta_VbCHW,
            }
            held.update({f"{name} {len(held)}": weakref.ref(part) for name, part in parts.items()})

    monkeypatch.setattr(recording, "Trial", Watched)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.empty_cache", lambda: emptied.append([name for name, ref in held.items() if ref() is not None])
    )
    yield emptied
    assert held, "a trial was built"


def test_the_memory_of_a_trial_that_failed_is_free_before_its_last_row(
    begin: Begin, alive: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(trial_module, "search_scores", fails)
    rows = begin(0)
    assert next(rows) == {"status": "failed", "reason": "out of memory: too much", "done": True}
    assert alive == [[], []], "before the trial and after it"


def test_the_traceback_of_an_error_is_kept(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(trial_module, "search_scores", fails)
    assert next(begin(0))["reason"] == "ValueError: odd"
    (kept,) = tmp_path.rglob("traceback.txt")
    assert kept.read_text().startswith("Traceback")
    assert "in fails\n" in kept.read_text()
    assert kept.read_text().endswith("ValueError: odd\n")


def test_the_memory_of_a_finished_trial_is_free_before_the_next_one_begins(
    begin: Begin, alive: list[list[str]]
) -> None:
    rows = begin(0)
    assert [next(rows)["status"], next(rows)["status"]] == ["running", "finished"]
    rows = begin(1)  # as a reused process does
    next(rows)
    assert alive == [[], []]


def test_a_checkpoint_that_cannot_be_read_costs_no_second_trial_in_memory(
    begin: Begin, alive: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = begin(0)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    del rows
    TrialFolder(tmp_path, 0).checkpoint.write_bytes(b"damaged")
    next(begin(0))
    assert "the trial starts from the beginning" in capsys.readouterr().out
    assert alive == [[], [], ["images 5"]], "of the second trial the images alone, on which the third trains too"

"""Checkpoints of a trial; they are independent of the number of workers, whose perturbations are gathered."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.host.files import replacing
from cfamc_ray.method.parallel import gather_images
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.trainer import Trainer


class CheckpointError(Exception):
    """A checkpoint from which a trial cannot be resumed."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    rows: list[TrialMetrics]
    """Rows of the finished epochs."""
    state: Mapping[str, Any]
    """State of the trainer, with the perturbations of all workers."""


def save_checkpoint(path: Path, trainer: Trainer, rows: Sequence[TrialMetrics], *, fingerprint: str) -> None:
    """Write a checkpoint atomically; all workers call this, and the first one writes.

    Args:
        path: path of the file.
        trainer: trainer of the trial.
        rows: rows of the finished epochs.
        fingerprint: identifies how these epochs were trained and evaluated.
    """
    state = trainer.state()
    if trainer.context.world_size > 1:
        state["delta"] = gather_images(trainer.delta_VbCHW)
    if trainer.context.rank > 0:
        return
    with replacing(path) as partial:
        torch.save({"fingerprint": fingerprint, "rows": [asdict(row) for row in rows], **state}, partial)


def read_checkpoint(path: Path, config: TrialConfig, device: torch.device) -> Checkpoint:
    """Read a checkpoint of a trial.

    Args:
        path: path of the file.
        config: config of the trial, which must have been trained and evaluated in the same way so far.
        device: device of the state's tensors.

    Raises:
        CheckpointError: if it cannot be read, or is of another config or version.
    """
    with unreadable(path):
        state = torch.load(path, map_location=device, weights_only=True)
        rows = [TrialMetrics(**row) for row in state["rows"]]
        if state["fingerprint"] != config.fingerprint_until(len(rows)):
            raise CheckpointError(f"{path} is a checkpoint of another config: {state['fingerprint']}")
    return Checkpoint(rows, state)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Turn the errors that a damaged checkpoint, or one of another version, causes into a `CheckpointError`."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # of a GPU, of which the file says nothing
    except (
        OSError,
        EOFError,
        RuntimeError,
        UnpicklingError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise CheckpointError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from None

"""Checkpoints of a trial; they are independent of the number of workers, whose perturbations are gathered."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch

from cfamc_ray.host.files import replacing
from cfamc_ray.method.parallel import gather_images
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.trainer import Trainer


class CheckpointError(Exception):
    """A checkpoint from which a trial cannot be resumed."""


def save_checkpoint(path: Path, trainer: Trainer, rows: Sequence[TrialMetrics]) -> None:
    """Write a checkpoint atomically; all workers call this, and the first one writes.

    Args:
        path: path of the file.
        trainer: trainer of the trial.
        rows: rows of the finished epochs.
    """
    delta_VBCHW = gather_images(trainer.delta_VbCHW) if trainer.context.world_size > 1 else trainer.delta_VbCHW
    if trainer.context.rank > 0:
        return
    state = {
        "fingerprint": trainer.config.fingerprint,
        "rows": [asdict(row) for row in rows],
        "encoder": trainer.encoder.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "delta": delta_VBCHW,
    }
    with replacing(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path, trainer: Trainer, *, share: slice) -> list[TrialMetrics]:
    """Set a trainer to the state of a checkpoint of the same config.

    Args:
        path: path of the file.
        trainer: trainer of the trial.
        share: this worker's slice of a minibatch's images.

    Returns:
        The rows of the finished epochs.

    Raises:
        CheckpointError: if it cannot be read, or is of another config or version; the trainer must then not be used.
    """
    try:
        state = torch.load(path, map_location=trainer.context.device, weights_only=True)
        if state["fingerprint"] != trainer.config.fingerprint:
            raise CheckpointError(f"{path} is a checkpoint of another config: {state['fingerprint']}")
        rows = [TrialMetrics(**row) for row in state["rows"]]
        trainer.encoder.load_state_dict(state["encoder"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scheduler.load_state_dict(state["scheduler"])
        trainer.delta_VbCHW = state["delta"][:, share].contiguous()
        trainer.forget_rehearsal()
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
    return rows

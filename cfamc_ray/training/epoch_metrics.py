"""What an epoch of a trial came to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrialMetrics:
    """One row per epoch. Sums run from the trial's first epoch, means over the epoch."""

    epoch: int
    """Finished epochs."""
    done: bool
    clean_accuracy: float
    """Of the linear probe on validation images, a fraction."""
    robust_accuracy: float
    """The same under PGD with the evaluation's threat model."""
    probe_accuracy: float
    """On the images that the probe was fitted on."""
    validation_images: int
    attacked_images: int
    measures: Mapping[str, float]
    """What else was measured of the encoder."""
    loss: float
    loss_terms: Mapping[str, float]
    """What the loss reports beside its value."""
    learning_rate: float
    """After the epoch's last update."""
    clipped_share: float | None
    """Share of layers whose last LARS step was limited by the learning rate; none without LARS."""
    delta_mean: float
    """Mean size of the perturbation after the epoch, in pixels."""
    delta_border_share: float
    """Share of its entries at the ball's border."""
    crop_passes: int
    flops: int
    train_seconds: float
    eval_seconds: float
    overhead_seconds: float
    """Neither of both: building, checkpoints, reports, waiting; not the process's start and the loading of images."""
    peak_memory_bytes: int
    """Of this worker: what the GPU's allocator reserves, which leaves out what CUDA itself takes, or, on CPUs, the
    process."""
    crop_passes_per_second: float
    """Over the epoch's training, all workers together."""
    precision: str
    device: str

    def row(self) -> dict[str, Any]:
        """As it is recorded: every term of the loss and every measure is a column of its own."""
        columns = asdict(self)
        return {**columns, **columns.pop("loss_terms"), **columns.pop("measures")}

"""The metrics of an epoch of a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrialMetrics:
    """Metrics of one epoch. Sums start at the trial's first epoch, means are over the epoch."""

    epoch: int
    """Number of finished epochs."""
    done: bool
    clean_accuracy: float
    """Accuracy of a linear probe on validation images, a fraction; the probe is that of the balanced operating point,
    which has the largest sum of clean and robust accuracy."""
    robust_accuracy: float
    """The same under the attack of `evaluation`, on attacked validation images."""
    probe_accuracy: float
    """Accuracy on the images on which the probe was fitted."""
    operating_points: Sequence[Mapping[str, float]]
    """The same accuracies for the probe of each L2 strength (`l2`); empty without an evaluation."""
    validation_images: int
    attacked_images: int
    measures: Mapping[str, float]
    """Further measures of the encoder, by name."""
    loss: float
    loss_terms: Mapping[str, float]
    """Terms of the loss, by name."""
    learning_rate: float
    """Learning rate after the epoch's last update."""
    clipped_share: float | None
    """Fraction of layers whose last LARS step was limited by the learning rate; None without LARS."""
    delta_mean: float
    """Mean absolute value of the perturbation after the epoch, in pixels."""
    delta_border_share: float
    """Fraction of the perturbation's entries at the border of the ball; of its crops in the l2 norm."""
    crop_passes: int
    flops: int
    train_seconds: float
    eval_seconds: float
    overhead_seconds: float
    """Other seconds: building, checkpoints, reports, waiting; without the process's start and the loading of images."""
    peak_memory_bytes: int
    """Peak memory of this worker: on a GPU what the allocator reserves, without CUDA's own memory; on CPUs the memory
    of the process."""
    crop_passes_per_second: float
    """Rate in the epoch's training, all workers together."""
    precision: str
    device: str

    def row(self) -> dict[str, Any]:
        """The row to record, in which every term of the loss and every measure is a separate column."""
        columns = asdict(self)
        terms, measures = columns.pop("loss_terms"), columns.pop("measures")
        columns.update(terms)
        columns.update(measures)
        return columns

"""TensorBoard's events of a trial, written into its folder while it trains."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

SCALARS = {
    "accuracy/clean": "clean_accuracy",
    "accuracy/robust": "robust_accuracy",
    "accuracy/probe": "probe_accuracy",
    "loss/total": "loss",
    "loss/invariance": "invariance",
    "loss/coding rate": "coding_rate",
    "optimizer/learning rate": "learning_rate",
    "optimizer/clipped share": "clipped_share",
    "perturbation/mean size": "delta_mean",
    "perturbation/share at the border": "delta_border_share",
    "cost/crop passes": "crop_passes",
    "cost/crop passes per second": "crop_passes_per_second",
    "cost/peak memory in bytes": "peak_memory_bytes",
}
"""Name on the page and metric; the step is the epoch."""


class TrialEvents:
    """Scalars per epoch, and the point with its accuracies for the HParams page.

    Args:
        folder: of the trial.
        point: the searched keys and their values.
        first_epoch: the next that will be written; what an interrupted run wrote from there on is hidden.
    """

    def __init__(self, folder: Path, point: Mapping[str, Any], *, first_epoch: int) -> None:
        self.point = {
            key: value if isinstance(value, bool | int | float) else str(value) for key, value in point.items()
        }
        self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add an epoch; what is missing is left out."""
        for name, metric in SCALARS.items():
            if _is_finite(row[metric]):
                self.writer.add_scalar(name, row[metric], row["epoch"])
        if row["done"]:
            accuracies = ("clean_accuracy", "robust_accuracy")
            results = {f"final/{metric}": row[metric] for metric in accuracies if _is_finite(row[metric])}
            self.writer.add_hparams(self.point, results, run_name=".")
        self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

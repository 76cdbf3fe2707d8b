"""TensorBoard events: of a trial while it trains, and of a study as trials end, in their folders.

Shapes: V views, b images that are shown, C/H/W channels/height/width.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cfamc_ray.config.measures import MEASURES
from cfamc_ray.metrics import METRICS

VIEWS = 8
"""Largest number of views of an image to show."""


class TrialEvents:
    """Scalars, operating points and crops of each epoch, and the point with the latest objectives for the HParams page.

    Args:
        folder: folder of the trial.
        point: the searched keys and their values.
        earlier: rows of the epochs before the next one. They are written where the folder has no events, as that of a
            fork has none of its trunk's epochs; events of an interrupted run from the next epoch on are hidden.
        loss_terms: columns of the rows that are terms of the loss; shown as ``loss/TERM`` unless they are metrics.
        measures: names of the measures that the trial reports.
    """

    def __init__(
        self,
        folder: Path,
        point: Mapping[str, Any],
        *,
        earlier: Sequence[Mapping[str, Any]],
        loss_terms: Sequence[str] = (),
        measures: Sequence[str] = (),
    ) -> None:
        terms = {f"loss/{name.replace('_', ' ')}": name for name in loss_terms if name not in METRICS}
        self.scalars = {metric.scalar: metric.name for metric in METRICS.values() if metric.scalar} | terms
        self.point = {
            key: value if isinstance(value, bool | int | float) else str(value) for key, value in point.items()
        }
        begins = not any(folder.glob("events.out.tfevents.*"))
        self.writer = SummaryWriter(str(folder), purge_step=1 if begins else len(earlier) + 1)
        unreported = MEASURES.classes.keys() - set(measures)
        objectives = (metric for metric in METRICS.values() if metric.objective and metric.name not in unreported)
        compared = {metric.scalar: 0.0 for metric in objectives if metric.scalar}
        self._described, self._begun, self._ended = hparams(self.point, compared)
        if begins:
            self._add(self._described, self._begun)
            for row in earlier:
                self.write(row)

    def write(
        self, row: Mapping[str, Any], crops: tuple[Tensor, Tensor] | None = None, *, epsilon: float | None = 1.0
    ) -> None:
        """Add an epoch; missing metrics are left out.

        Args:
            row: the epoch's metrics.
            crops: crops_VbCHW and delta_VbCHW to show; None for none.
            epsilon: largest change of a pixel, which is shown as black or white; None: the largest one there is.
        """
        for name, metric in self.scalars.items():
            value = row.get(metric)
            if value is not None and math.isfinite(value):
                self.writer.add_scalar(name, value, row["epoch"])
        for point in row.get("operating_points") or ():
            for metric in ("clean_accuracy", "robust_accuracy"):
                tag = f"operating points/{METRICS[metric].label}/L2 {point['l2']:.4g}"
                self.writer.add_scalar(tag, point[metric], row["epoch"])
        if crops is not None:
            for name, grid_CHW in crop_grids(*crops, epsilon=epsilon).items():
                self.writer.add_image(name, grid_CHW, row["epoch"])
        if row["done"]:
            self._add(self._ended)
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()

    def _add(self, *summaries: Any) -> None:
        assert self.writer.file_writer is not None
        for summary in summaries:
            self.writer.file_writer.add_summary(summary)


def crop_grids(crops_VbCHW: Tensor, delta_VbCHW: Tensor, *, epsilon: float | None) -> dict[str, Tensor]:
    """Images of the crops, the perturbed crops, and the perturbation, with a row for each image."""

    def grid(images_VbCHW: Tensor) -> Tensor:
        framed_VbCHW = functional.pad(images_VbCHW[:VIEWS].clamp(0, 1), (1, 0, 1, 0))
        V, b, C, H, W = framed_VbCHW.shape
        rows_CHW = framed_VbCHW.permute(2, 1, 3, 0, 4).reshape(C, b * H, V * W)
        return functional.pad(rows_CHW, (0, 1, 0, 1))

    largest = delta_VbCHW.abs().max().item() if epsilon is None else epsilon
    magnified = 0.5 + delta_VbCHW / (2 * largest) if largest > 0 else torch.full_like(delta_VbCHW, 0.5)
    return {
        "crops/plain": grid(crops_VbCHW),
        "crops/perturbed": grid(crops_VbCHW + delta_VbCHW),
        f"crops/perturbation, {'largest' if epsilon is None else 'ε'} from black to white": grid(magnified),
    }


class StudyEvents:
    """The hypervolume as a scalar, and the front as a figure, over the number of finished trials.

    Args:
        folder: folder of the study.
        first_step: number of finished trials at the start of this run; later events of an earlier run are hidden.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, finished: int, hypervolume: float, front: Figure) -> None:
        """Add the hypervolume and the front after a number of finished trials."""
        self.writer.add_scalar("study/hypervolume", hypervolume, finished)
        self.writer.add_figure("study/front", front, finished)
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()

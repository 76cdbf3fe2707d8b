"""The cost of communication between workers, measured with a few and predicted for many.

A ring all-reduce over N workers sends 2 (N - 1) messages one after the other, in total 2 (N - 1) / N times its bytes.
An all-gather sends N - 1 messages of one worker's bytes (Thakur et al., 2005):

    all-reduce  = 2 (N - 1) latency + 2 (N - 1) / N bytes / bandwidth
    all-gather  = (N - 1) latency + (N - 1) bytes / bandwidth

Every update has one all-reduce of the gradients and, for each of its losses, one all-gather of the embeddings: an
update by PGD has a loss for each step, too. Each worker computes the loss of the global batch, so that this part of the
arithmetic grows with N, too. Synchronised batch norm is not modelled.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from cfamc_ray.store.cells import Measured

BUCKET_BYTES = 25 * 2**20
"""Size of the buckets in which DistributedDataParallel reduces gradients."""


class Communication(NamedTuple):
    """Latency and bandwidth between workers."""

    latency_seconds: float
    seconds_per_byte: float

    def all_reduce_seconds(self, size: float, workers: int) -> float:
        """Time of an all-reduce, in buckets, of `size` bytes on each worker."""
        buckets = max(1, math.ceil(size / BUCKET_BYTES))
        return (
            2 * (workers - 1) * (buckets * self.latency_seconds + size / workers * self.seconds_per_byte)
            if workers > 1
            else 0.0
        )

    def all_gather_seconds(self, size: float, workers: int) -> float:
        """Time of an all-gather of `size` bytes of each worker."""
        return (workers - 1) * (self.latency_seconds + size * self.seconds_per_byte)


class Efficiency(NamedTuple):
    """Predicted efficiency of weak scaling."""

    workers: int
    expected: float
    """If the all-reduce costs the same multiple of its time on idle workers as when it was measured: below 1 where it
    overlaps with the backward pass, above 1 where it takes processors from it."""
    exposed: float
    """If the all-reduce does not overlap with the backward pass at all."""


def fit_communication(workers: int, sums: Sequence[tuple[float, float]]) -> Communication:
    """A least-squares fit of the relative errors of all-reduces of several sizes.

    Args:
        workers: number of workers that took part.
        sums: bytes on each worker and seconds of each all-reduce.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 (slow to import, and commands that fit nothing import this module)

    size, seconds = np.array(sums, dtype=float).T
    features = 2 * (workers - 1) * np.column_stack([np.ones(len(size)), size / workers])
    solution, _ = nnls(features / seconds[:, None], np.ones(len(size)))
    return Communication(*map(float, solution))


def predict_efficiency(measured: Measured, workers: Sequence[int]) -> list[Efficiency]:
    """Predict weak scaling from a cell of several workers to more workers with the same share of the images each.

    The prediction starts from the time that one worker takes alone, and so assumes a machine for each worker.

    Args:
        measured: a cell of several workers.
        workers: the numbers of workers to predict.
    """
    cell, values = measured.cell, measured.values
    seconds = values.seconds
    assert seconds.alone is not None, "a cell of several workers has all measurements"
    assert seconds.unsynchronised is not None
    constants = fit_communication(cell.workers, values.sums)
    alone = median(seconds.alone) / values.updates
    gradients = float(values.parameters * values.number_bytes)
    added = max(0.0, median(seconds.steps) - median(seconds.unsynchronised)) / values.updates
    idle = constants.all_reduce_seconds(gradients, cell.workers)
    multiple = added / idle if idle > 0 else 1.0

    trial = cell.trial
    views, width = trial.crops.views, trial.encoder.embedding_width
    images = trial.pretraining.batch_images // cell.workers
    embeddings = float(views * images * width * values.number_bytes)
    losses = trial.losses_per_epoch / trial.updates_per_epoch
    efficiencies = []
    for count in workers:
        more = trial.loss.flops(views, images * count, width) - trial.loss.flops(views, images, width)
        loss = losses * more / values.float32_flops_per_second
        gathered = losses * constants.all_gather_seconds(embeddings, count)
        reduced = constants.all_reduce_seconds(gradients, count)
        each = [alone / (alone + loss + gathered + times * reduced) for times in (multiple, max(multiple, 1.0))]
        efficiencies.append(Efficiency(count, *each))
    return efficiencies

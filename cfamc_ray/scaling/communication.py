"""What the exchange between workers costs, measured between few and predicted for many.

A sum over N workers by rings sends 2 (N - 1) messages one after the other, and of its bytes the part 2 (N - 1) / N;
gathering from all sends N - 1 messages of one worker's bytes (Thakur et al., 2005):

    sum     = 2 (N - 1) latency + 2 (N - 1) / N bytes / bandwidth
    gather  = (N - 1) latency + (N - 1) bytes / bandwidth

Every update sums the gradients and gathers the embeddings once. The loss is that of the global batch on every worker,
so its arithmetic grows with N, too. Synchronised batch norm, which GPUs can have, is not in the model.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from cfamc_ray.store.cells import Measured

BUCKET_BYTES = 25 * 2**20
"""Gradients that DistributedDataParallel sums at once."""


class Communication(NamedTuple):
    """The constants of a connection between workers."""

    latency_seconds: float
    seconds_per_byte: float

    def sum_seconds(self, size: float, workers: int) -> float:
        """Of a sum over all workers of so many bytes on each, in buckets."""
        buckets = max(1, math.ceil(size / BUCKET_BYTES))
        return (
            2 * (workers - 1) * (buckets * self.latency_seconds + size / workers * self.seconds_per_byte)
            if workers > 1
            else 0.0
        )

    def gather_seconds(self, size: float, workers: int) -> float:
        """Of handing so many bytes of each worker to all."""
        return (workers - 1) * (self.latency_seconds + size * self.seconds_per_byte)


class Efficiency(NamedTuple):
    """Of weak scaling to so many workers: a prediction, no measurement."""

    workers: int
    expected: float
    """Where sums cost as much, beside their time on idle workers, as they did when it was measured: less where they
    hide behind the backward pass, more where they take processors from it."""
    exposed: float
    """Where none of them hides."""


def fit_communication(workers: int, sums: Sequence[tuple[float, float]]) -> Communication:
    """Least squares of relative errors over sums of several sizes.

    Args:
        workers: that were summed over.
        sums: bytes on each worker, and seconds.
    """
    size, seconds = np.array(sums, dtype=float).T
    features = 2 * (workers - 1) * np.column_stack([np.ones(len(size)), size / workers])
    solution, _ = nnls(features / seconds[:, None], np.ones(len(size)))
    return Communication(*map(float, solution))


def predict_efficiency(measured: Measured, workers: Sequence[int]) -> list[Efficiency]:
    """Weak scaling from a cell of several workers to more, each with the same share of the images.

    It begins from what one of them took alone, as on a machine of its own.

    Args:
        measured: the cell.
        workers: how many.
    """
    cell, found = measured.cell, measured.found
    constants = fit_communication(cell.workers, found["sums"])
    updates = float(found["updates"])
    alone = measured.seconds("alone") / updates
    gradients = float(found["parameters"] * found["number_bytes"])
    seen = max(0.0, measured.seconds("steps") - measured.seconds("unsynchronised")) / updates
    summed = constants.sum_seconds(gradients, cell.workers)
    felt = seen / summed if summed > 0 else 1.0

    trial = cell.trial
    views, width = trial.crops.views, trial.encoder.embedding_width
    images = trial.pretraining.batch_images // cell.workers
    embeddings = float(views * images * width * found["number_bytes"])
    arithmetic = float(found["float32_flops_per_second"])
    efficiencies = []
    for count in workers:
        more = trial.loss.flops(views, images * count, width) - trial.loss.flops(views, images, width)
        loss = more / arithmetic
        gathered = constants.gather_seconds(embeddings, count)
        total = constants.sum_seconds(gradients, count)
        each = [alone / (alone + loss + gathered + share * total) for share in (felt, max(felt, 1.0))]
        efficiencies.append(Efficiency(count, *each))
    return efficiencies

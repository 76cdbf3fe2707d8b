"""What a trial will take, fitted to the trials that have run: seconds and memory grow with the work in them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.study.records import TrialRecord

FlopsOf = Callable[[TrialConfig], float]
"""Training FLOPs of a trial, known before it runs."""


class CostModel(NamedTuple):
    """Seconds = a x FLOPs + b x updates + c x measurements; bytes = a + b x activations. No coefficient is negative."""

    flops_of: FlopsOf
    seconds_per: tuple[float, ...] | None
    """FLOP, weight update and measured epoch; None where nothing has run."""
    bytes_per: tuple[float, ...] | None
    """Trial and activation; None where fewer than two sizes have run."""

    def seconds(self, trial: TrialConfig) -> float | None:
        """Of training and measurements; None where nothing is known yet."""
        if self.seconds_per is None:
            return None
        return float(np.dot(self.seconds_per, _work(trial, self.flops_of, trial.pretraining.epochs)))

    def memory_bytes(self, trial: TrialConfig) -> float | None:
        """Peak of a worker; None where nothing is known yet."""
        return None if self.bytes_per is None else float(np.dot(self.bytes_per, (1.0, activations(trial))))


def fit_costs(config: StudyConfig, records: Sequence[TrialRecord], flops_of: FlopsOf) -> CostModel:
    """Fit to all trials that have come through an epoch, relative errors alike.

    Args:
        config: of the study.
        records: of its trials.
        flops_of: training FLOPs of a trial.
    """
    ran = [(config.trial_at(record.point), record) for record in records if record.rows]
    work = [_work(trial, flops_of, len(record.rows)) for trial, record in ran]
    seconds = [record.value("train_seconds") + record.value("eval_seconds") for _, record in ran]
    sizes = [(1.0, activations(trial)) for trial, _ in ran]
    return CostModel(
        flops_of,
        seconds_per=_fit(work, seconds),
        bytes_per=_fit(sizes, [record.value("peak_memory_bytes") for _, record in ran])
        if len(set(sizes)) > 1
        else None,
    )


def activations(trial: TrialConfig) -> float:
    """What memory grows with: crops that pass the network together, times their pixels, times its width."""
    views = min(trial.pretraining.views_at_once or trial.crops.views, trial.crops.views)
    kept = views if trial.pretraining.recompute else trial.crops.views
    return float(kept * trial.pretraining.batch_images * trial.crops.size**2 * trial.encoder.width)


def _work(trial: TrialConfig, flops_of: FlopsOf, epochs: int) -> tuple[float, float, float]:
    share = epochs / trial.pretraining.epochs
    measured = sum(trial.evaluates(epoch) for epoch in range(1, epochs + 1))
    return flops_of(trial) * share, trial.updates * share, float(measured)


def _fit(features: Sequence[tuple[float, ...]], targets: Sequence[float]) -> tuple[float, ...] | None:
    """Non-negative least squares of relative errors, over the rows that are known."""
    X, y = np.array(features, dtype=float), np.array(targets, dtype=float)
    known = np.isfinite(y) & (y > 0) if len(y) else np.zeros(0, dtype=bool)
    if not known.any():
        return None
    X, y = X[known] / y[known, None], np.ones(int(known.sum()))
    scale = np.where(X.max(axis=0) > 0, X.max(axis=0), 1.0)  # FLOPs and updates are of very different size
    solution, _ = nnls(X / scale, y)
    return tuple(float(value) for value in solution / scale)

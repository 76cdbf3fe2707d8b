"""What a trial will take, fitted to what has run: seconds and memory grow with the work in it.

    seconds = FLOPs·a + activations·b + updated parameters·c + updates·d + measurements·e
    bytes   = f + activations kept at once·g + parameters·h

FLOPs stand for the arithmetic, activations and parameters for what goes through memory, updates for what each costs
however small it is. No coefficient is negative.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.optimize import nnls

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.study.records import TrialRecord

SECONDS_PER = ("flop", "activation", "updated_parameter", "update", "measurement")
BYTES_PER = ("process", "kept_activation", "parameter")

Coefficients = Mapping[str, float]


class Work(Protocol):
    """What a trial's training comes to, all workers together, counted before it runs."""

    @property
    def flops(self) -> float:
        """Of the matrix products."""

    @property
    def activations(self) -> float:
        """Numbers that all forward passes leave for the backward passes."""

    @property
    def kept(self) -> float:
        """Those that are held at once."""

    @property
    def parameters(self) -> float:
        """Of the encoder."""


WorkOf = Callable[[TrialConfig], Work]
FlopsOf = Callable[[TrialConfig], float]


class CostModel(NamedTuple):
    """Seconds and bytes of a trial by its work; None for what nothing is known of."""

    work_of: WorkOf
    workers: int
    """Of a trial; they share its arithmetic and its activations, and each has all parameters."""
    seconds_per: Coefficients | None
    bytes_per: Coefficients | None

    def seconds(self, trial: TrialConfig) -> float | None:
        """Of training and measurements."""
        if self.seconds_per is None:
            return None
        features = seconds_features(self.work_of(trial), trial, workers=self.workers)
        return predict(self.seconds_per, features)

    def memory_bytes(self, trial: TrialConfig) -> float | None:
        """Peak of a worker."""
        if self.bytes_per is None:
            return None
        return predict(self.bytes_per, bytes_features(self.work_of(trial), workers=self.workers))

    def or_else(self, other: Self | None) -> "CostModel":
        """This, and what another knows where this knows nothing."""
        if other is None:
            return self
        return self._replace(
            seconds_per=other.seconds_per if self.seconds_per is None else self.seconds_per,
            bytes_per=other.bytes_per if self.bytes_per is None else self.bytes_per,
        )


def fit_costs(config: StudyConfig, records: Sequence[TrialRecord], work_of: WorkOf) -> CostModel:
    """Fit to all trials that have come through an epoch; memory where trials of two sizes have.

    Args:
        config: of the study.
        records: of its trials.
        work_of: what a trial comes to.
    """
    workers, ran = config.resources.workers_per_trial, [record for record in records if record.rows]
    trials = [config.trial_at(record.point) for record in ran]
    works = [work_of(trial) for trial in trials]
    spent = [
        seconds_features(work, trial, workers=workers, epochs=len(record.rows))
        for work, trial, record in zip(works, trials, ran, strict=True)
    ]
    seconds = [record.value("train_seconds") + record.value("eval_seconds") for record in ran]
    sizes = [bytes_features(work, workers=workers) for work in works]
    peaks = [record.value("peak_memory_bytes") for record in ran]
    return CostModel(
        work_of,
        workers,
        fit_coefficients(SECONDS_PER, spent, seconds),
        fit_coefficients(BYTES_PER, sizes, peaks) if len(set(sizes)) > 1 else None,
    )


def seconds_features(
    work: Work, trial: TrialConfig, *, workers: int = 1, epochs: int | None = None
) -> tuple[float, ...]:
    """What seconds grow with, in the order of `SECONDS_PER`.

    Args:
        work: of the whole trial.
        trial: its config.
        workers: that share it.
        epochs: that are counted; None for all.
    """
    epochs = trial.pretraining.epochs if epochs is None else epochs
    measured = sum(trial.evaluates(epoch) for epoch in range(1, epochs + 1))
    totals = (work.flops / workers, work.activations / workers, work.parameters * trial.updates, trial.updates)
    return (*(epochs / trial.pretraining.epochs * total for total in totals), float(measured))


def bytes_features(work: Work, *, workers: int = 1) -> tuple[float, ...]:
    """What memory grows with, in the order of `BYTES_PER`; the arguments are those of `seconds_features`."""
    return (1.0, work.kept / workers, work.parameters)


def fit_coefficients(
    names: Sequence[str], features: Sequence[tuple[float, ...]], targets: Sequence[float]
) -> Coefficients | None:
    """Non-negative least squares of relative errors, over the rows whose target is known; None where none is.

    Args:
        names: of the features.
        features: a row for each target.
        targets: positive where known.
    """
    X, y = np.array(features, dtype=float), np.array(targets, dtype=float)
    known = np.isfinite(y) & (y > 0) if len(y) else np.zeros(0, dtype=bool)
    if not known.any():
        return None
    X, y = X[known] / y[known, None], np.ones(int(known.sum()))
    scale = np.where(X.max(axis=0) > 0, X.max(axis=0), 1.0)  # FLOPs and updates are of very different size
    solution, _ = nnls(X / scale, y)
    return dict(zip(names, map(float, solution / scale), strict=True))


def predict(coefficients: Coefficients, features: tuple[float, ...]) -> float:
    """What coefficients make of features in their order."""
    return float(sum(coefficient * value for coefficient, value in zip(coefficients.values(), features, strict=True)))

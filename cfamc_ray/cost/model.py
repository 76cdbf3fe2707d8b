"""What a trial will take, fitted to what has run: seconds and memory grow with the work in it.

    seconds = FLOPs·a + activations·b + updated parameters·c + updates·d + FLOPs of measurements·e
    bytes   = f + activations kept at once, by training or by a measurement, whichever are more·g + parameters·h

FLOPs stand for the arithmetic, activations and parameters for what goes through memory, updates for what each costs
however small it is. No coefficient is negative.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.optimize import lsq_linear

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.store.records import TrialRecord, trials_of

EVALUATION = "evaluation_flop"
Amounts = Mapping[str, float]
"""Of what time or memory grows with, by name."""
Coefficients = Mapping[str, float]
"""Seconds or bytes for each, by the same names."""


class Work(Protocol):
    """What a trial comes to, all workers together, counted before it runs."""

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

    @property
    def evaluation_flops(self) -> float:
        """Of one measurement, at most."""

    @property
    def evaluation_kept(self) -> float:
        """Numbers that a measurement holds at once."""


WorkOf = Callable[[TrialConfig], Work]
FlopsOf = Callable[[TrialConfig], float]


class CostModel(NamedTuple):
    """Seconds and bytes of a trial by its work; None for what nothing is known of."""

    work_of: WorkOf
    workers: int
    """Of a trial; they share its arithmetic, its measurements and its activations, and each has all parameters."""
    seconds_per: Coefficients | None
    bytes_per: Coefficients | None

    def seconds(self, trial: TrialConfig) -> float | None:
        """Of training and measurements."""
        if self.seconds_per is None:
            return None
        features = seconds_features(self.work_of(trial), trial, workers=self.workers)
        seconds = predict(self.seconds_per, features)
        if EVALUATION in self.seconds_per:
            return seconds
        # Training alone was measured: an evaluation's FLOPs take what those of a pass take.
        passes = sum(self.seconds_per.get(name, 0.0) * features[name] for name in ("flop", "activation"))
        return seconds + features[EVALUATION] * passes / features["flop"]

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


def fit_costs(
    config: StudyConfig,
    records: Sequence[TrialRecord],
    work_of: WorkOf,
    *,
    trial_of: Callable[[TrialRecord], TrialConfig] | None = None,
) -> CostModel:
    """Fit to all trials that have come through an epoch; memory where trials of two sizes have.

    Args:
        config: of the study.
        records: of its trials.
        work_of: what a trial comes to.
        trial_of: `trials_of` the config, where it is kept from one fit to the next.
    """
    workers, ran = config.resources.workers_per_trial, [record for record in records if record.rows]
    trials = list(map(trial_of or trials_of(config), ran))
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
        fit_coefficients(spent, seconds),
        fit_coefficients(sizes, peaks) if len({tuple(size.values()) for size in sizes}) > 1 else None,
    )


def seconds_features(work: Work, trial: TrialConfig, *, workers: int = 1, epochs: int | None = None) -> Amounts:
    """What seconds grow with.

    Args:
        work: of the whole trial.
        trial: its config.
        workers: that share it.
        epochs: that are counted; None for all.
    """
    epochs = trial.pretraining.epochs if epochs is None else epochs
    measured = sum(trial.evaluates(epoch) for epoch in range(1, epochs + 1))
    totals = {
        "flop": work.flops / workers,
        "activation": work.activations / workers,
        "updated_parameter": work.parameters * trial.updates,
        "update": trial.updates,
    }
    share = epochs / trial.pretraining.epochs
    evaluation = measured * work.evaluation_flops / workers
    return {**{name: share * total for name, total in totals.items()}, EVALUATION: evaluation}


def bytes_features(work: Work, *, workers: int = 1) -> Amounts:
    """What memory grows with; the arguments are those of `seconds_features`."""
    kept = max(work.kept / workers, work.evaluation_kept)  # each worker has all features and at most a whole batch
    return {"process": 1.0, "kept_activation": kept, "parameter": work.parameters}


def fit_coefficients(
    amounts: Sequence[Amounts], targets: Sequence[float], *, at_most: Coefficients | None = None
) -> Coefficients | None:
    """Non-negative least squares of relative errors, over the rows whose target is known; None where none is.

    Args:
        amounts: a row for each target, all of the same names.
        targets: positive where known.
        at_most: what some coefficients cannot exceed.
    """
    X, y = np.array([list(row.values()) for row in amounts], dtype=float), np.array(targets, dtype=float)
    known = np.isfinite(y) & (y > 0) if len(y) else np.zeros(0, dtype=bool)
    if not known.any():
        return None
    X, y = X[known] / y[known, None], np.ones(int(known.sum()))
    scale = np.where(X.max(axis=0) > 0, X.max(axis=0), 1.0)  # FLOPs and updates are of very different size
    highest = np.array([(at_most or {}).get(name, np.inf) for name in amounts[0]])
    solution = lsq_linear(X / scale, y, bounds=(0, highest * scale), method="bvls").x
    return dict(zip(amounts[0], map(float, solution / scale), strict=True))


def predict(coefficients: Coefficients, amounts: Amounts) -> float:
    """What coefficients make of amounts."""
    return float(sum(coefficient * amounts[name] for name, coefficient in coefficients.items()))

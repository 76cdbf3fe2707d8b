"""Predictions of a trial's seconds and memory, fitted to earlier trials: they grow with its work.

    seconds = FLOPs·a + activations·b + updated parameters·c + updates·d + FLOPs of measurements·e
    bytes   = f + activations kept at once, by training or by a measurement, whichever are more·g + parameters·h

FLOPs represent arithmetic, activations and parameters represent memory traffic, and updates represent the fixed cost of
an update. No coefficient is negative.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.store.records import TrialRecord, trials_of

EVALUATION = "evaluation_flop"
Amounts = Mapping[str, float]
"""Amounts with which time or memory grows, by name."""
Coefficients = Mapping[str, float]
"""Seconds or bytes per unit of each amount, by the same names."""


class Work(Protocol):
    """The work of a trial, all workers together, counted before it runs."""

    @property
    def flops(self) -> float:
        """FLOPs of the matrix products."""

    @property
    def activations(self) -> float:
        """Count of numbers that all forward passes store for the backward passes."""

    @property
    def kept(self) -> float:
        """Count of numbers that are stored at once."""

    @property
    def parameters(self) -> float:
        """Number of parameters of the encoder."""

    @property
    def evaluation_flops(self) -> float:
        """Largest FLOPs of one evaluation."""

    @property
    def evaluation_kept(self) -> float:
        """Count of numbers that an evaluation holds at once."""


WorkOf = Callable[[TrialConfig], Work]
FlopsOf = Callable[[TrialConfig], float]


class CostModel(NamedTuple):
    """Predicts seconds and bytes of a trial from its work; None where nothing is known."""

    work_of: WorkOf
    workers: int
    """Workers of a trial; they share its arithmetic, evaluations and activations, and each has all parameters."""
    seconds_per: Coefficients | None
    bytes_per: Coefficients | None

    def seconds(self, trial: TrialConfig) -> float | None:
        """Predicted seconds of training and evaluations; None if unknown."""
        if self.seconds_per is None:
            return None
        features = seconds_features(self.work_of(trial), trial, workers=self.workers)
        seconds = predict(self.seconds_per, features)
        if EVALUATION in self.seconds_per:
            return seconds
        # Only training was measured: assume that FLOPs of an evaluation take as long as those of a pass.
        passes = sum(self.seconds_per.get(name, 0.0) * features[name] for name in ("flop", "activation"))
        return seconds + features[EVALUATION] * passes / features["flop"]

    def memory_bytes(self, trial: TrialConfig) -> float | None:
        """Predicted peak bytes of a worker; None if unknown."""
        if self.bytes_per is None:
            return None
        return predict(self.bytes_per, bytes_features(self.work_of(trial), workers=self.workers))

    def or_else(self, other: Self | None) -> "CostModel":
        """This model, with the coefficients of another where it has none."""
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
    """Fit a model to all trials with a finished epoch; memory only if their sizes differ.

    Args:
        config: config of the study.
        records: records of its trials.
        work_of: function that gives the work of a trial.
        trial_of: cached `trials_of(config)`, to reuse from one fit to the next.
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
    """The amounts with which seconds grow.

    Args:
        work: work of the whole trial.
        trial: config of the trial.
        workers: number of workers that share it.
        epochs: number of epochs to count; None for all.
    """
    epochs = trial.pretraining.epochs if epochs is None else epochs
    measured = sum(trial.evaluates(epoch) for epoch in range(1, epochs + 1))
    totals = {
        "flop": work.flops / workers,
        "activation": work.activations / workers,
        "updated_parameter": work.parameters * trial.updates,
        "update": trial.updates,
    }
    share = trial.crop_passes_until(epochs) / trial.crop_passes
    evaluation = measured * work.evaluation_flops / workers
    return {**{name: share * total for name, total in totals.items()}, EVALUATION: evaluation}


def bytes_features(work: Work, *, workers: int = 1) -> Amounts:
    """The amounts with which memory grows; arguments as in `seconds_features`."""
    kept = max(work.kept / workers, work.evaluation_kept)  # each worker has all features and at most a whole batch
    return {"process": 1.0, "kept_activation": kept, "parameter": work.parameters}


def fit_coefficients(
    amounts: Sequence[Amounts], targets: Sequence[float], *, at_most: Coefficients | None = None
) -> Coefficients | None:
    """Non-negative least squares of relative errors over rows with a known target; None if there are none.

    Args:
        amounts: a row for each target, all with the same names.
        targets: seconds or bytes, positive if known.
        at_most: upper bounds of some coefficients.
    """
    X, y = np.array([list(row.values()) for row in amounts], dtype=float), np.array(targets, dtype=float)
    known = np.isfinite(y) & (y > 0) if len(y) else np.zeros(0, dtype=bool)
    if not known.any():
        return None
    from scipy.optimize import lsq_linear  # noqa: PLC0415 (slow to import, and not every command fits)

    X, y = X[known] / y[known, None], np.ones(int(known.sum()))
    scale = np.where(X.max(axis=0) > 0, X.max(axis=0), 1.0)  # FLOPs and updates are of very different size
    highest = np.array([(at_most or {}).get(name, np.inf) for name in amounts[0]])
    solution = lsq_linear(X / scale, y, bounds=(0, highest * scale), method="bvls").x
    return dict(zip(amounts[0], map(float, solution / scale), strict=True))


def predict(coefficients: Coefficients, amounts: Amounts) -> float:
    """The prediction: the sum of coefficients times amounts."""
    return float(sum(coefficient * amounts[name] for name, coefficient in coefficients.items()))

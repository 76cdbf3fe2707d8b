"""Accuracies measured by a protocol, with their intervals, and their means."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from cfamc_ray.config.corruptions import Corruption
from cfamc_ray.config.types import Norm
from cfamc_ray.intervals import wilson_interval

CLEAN = "none"
"""Id of a measurement without an attack."""


@dataclass(frozen=True)
class Measurement:
    """Number of correctly classified images of a sample of test images, under one attack or one corruption."""

    attack: str
    """Id of the attack; ``none`` without an attack."""
    label: str
    """Name of the attack in tables."""
    after: tuple[str, ...]
    """Ids of earlier attacks at this radius: this one attacks only images that are still classified correctly."""
    epsilon: float
    """Radius of the ball; 0 without an attack."""
    norm: Norm | None
    """Norm of the ball; None without an attack."""
    images: int
    right: int
    """Number of images that are classified correctly under this attack and all earlier ones."""
    corruption: Corruption | None = None
    """Corruption of the images; None for images as they are."""
    severity: int | None = None
    """Severity of the corruption, from 1 to 5."""
    draw: int = 0
    """Which draw of few labels the classifier was fitted on, from 0; 0 if it was fitted on all labels."""

    @classmethod
    def clean(cls, images: int, right: int) -> "Measurement":
        """Create a measurement without an attack."""
        return cls(CLEAN, CLEAN, (), 0.0, None, images, right)

    @classmethod
    def corrupted(cls, corruption: Corruption, severity: int, images: int, right: int) -> "Measurement":
        """Create a measurement of corrupted images."""
        label = f"{corruption.replace('_', ' ')}, severity {severity}"
        return cls(CLEAN, label, (), 0.0, None, images, right, corruption, severity)

    @property
    def accuracy(self) -> float:
        """Accuracy, a fraction."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy on all images, of which these are a sample."""
        return wilson_interval(self.right, self.images)

    @property
    def title(self) -> str:
        """Label of a table's row; a plus sign represents the earlier attacks."""
        return f"+ {self.label}" if self.after else self.label

    def record(self) -> dict[str, Any]:
        """The measurement as JSON values, for a file."""
        return {**asdict(self), "after": list(self.after), "accuracy": self.accuracy, "interval_95": self.interval}


@dataclass(frozen=True)
class MeanAccuracy:
    """Mean of the accuracies of all draws of few labels under one attack or corruption; of all labels, the accuracy."""

    of: Measurement
    """What was measured; its numbers `right` and `draw` are 0."""
    accuracies: tuple[float, ...]
    """Accuracies of the draws, fractions."""

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracies of the draws; None of a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval for other test images with the same draws; `spread` tells how much draws differ."""
        return wilson_interval(self.mean * self.of.images, self.of.images)

    def record(self) -> dict[str, Any]:
        """The mean as JSON values, for a file."""
        of = {key: value for key, value in self.of.record().items() if key not in ("right", "draw")}
        mean = {"accuracy": self.mean, "interval_95": self.interval, "spread": self.spread}
        return {**of, **mean, "draws": len(self.accuracies)}


def means_of(measured: Iterable[Measurement]) -> list[MeanAccuracy]:
    """Mean over draws of each attack at each radius and of each corruption, in the order of the measurements."""
    found: dict[Measurement, list[float]] = {}
    for measurement in measured:
        found.setdefault(replace(measurement, right=0, draw=0), []).append(measurement.accuracy)
    return [MeanAccuracy(of, tuple(accuracies)) for of, accuracies in found.items()]


def corruption_accuracy(means: Iterable[MeanAccuracy]) -> float | None:
    """Mean accuracy over all corruptions and severities, a fraction; None if there are none."""
    accuracies = [each.mean for each in means if each.of.corruption]
    return statistics.fmean(accuracies) if accuracies else None

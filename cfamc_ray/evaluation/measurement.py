"""One accuracy measured by a protocol, with its interval."""

from dataclasses import asdict, dataclass
from typing import Any

from cfamc_ray.config.types import Norm
from cfamc_ray.intervals import wilson_interval

CLEAN = "none"
"""Id of a measurement without an attack."""


@dataclass(frozen=True)
class Measurement:
    """Number of correctly classified images of a sample of test images, under one attack."""

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

    @classmethod
    def clean(cls, images: int, right: int) -> "Measurement":
        """Create a measurement without an attack."""
        return cls(CLEAN, CLEAN, (), 0.0, None, images, right)

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

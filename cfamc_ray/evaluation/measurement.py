"""One accuracy that a protocol has measured, with its interval."""

from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

CLEAN = "none"
"""Id of a measurement without an attack."""


@dataclass(frozen=True)
class Measurement:
    """What a classifier got right of a sample of the test images, under one attack."""

    attack: str
    """Id of the attack; ``none`` without one."""
    label: str
    """Name of the attack in tables."""
    after: tuple[str, ...]
    """Ids of the attacks that ran before it at this radius: it saw only what they left right."""
    epsilon: float
    """Radius of the l∞ ball; 0 without an attack."""
    images: int
    right: int
    """Images that are right under this attack and all before it."""

    @classmethod
    def clean(cls, images: int, right: int) -> "Measurement":
        """Without an attack."""
        return cls(CLEAN, CLEAN, (), 0.0, images, right)

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % for the accuracy on all images, of which these are a sample."""
        low, high = binomtest(self.right, self.images).proportion_ci(method="wilson")
        return float(low), float(high)

    @property
    def title(self) -> str:
        """Label of a table's row; a plus sign stands for the attacks before it."""
        return f"+ {self.label}" if self.after else self.label

    def record(self) -> dict[str, Any]:
        """All that a file keeps, as JSON has it."""
        return {**asdict(self), "after": list(self.after), "accuracy": self.accuracy, "interval_95": self.interval}

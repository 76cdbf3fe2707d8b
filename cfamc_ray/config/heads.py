"""Linear heads on a frozen encoder: their keys, and the named heads."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cfamc_ray.config.attacks import ATTACKS, AttackConfig, PgdConfig
from cfamc_ray.config.components import ComponentField
from cfamc_ray.config.types import NormKey, Radius, Real, Strict

Phase = Literal["clean", "adversarial"]
Strengths = Annotated[
    tuple[Annotated[Real, Field(gt=0)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, int | float | str) else value),
    Field(strict=False, min_length=1),
]
"""One or more L2 strengths; a number alone is one."""


class ProbeConfig(Strict):
    """A linear classifier on frozen features of un-augmented training images, fitted to convergence."""

    features: Literal["prefeature", "backbone"] = "prefeature"
    """Input of the head: the pre-feature, as published, or the backbone's output."""
    l2: Strengths = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
    """L2 strengths of the converged fit, a number or a list: l2/2 times the squared norm of the weights is added to the
    mean cross-entropy, with standardised features. Each strength is an operating point of the encoder: weak ones favour
    clean accuracy, strong ones robust accuracy, and none needs training of its own."""
    tolerance: Real = Field(default=1e-4, gt=0)
    """The converged fit ends when no entry of the objective's gradient exceeds this absolute value."""
    iterations: int = Field(default=200, ge=1)
    """Largest number of L-BFGS iterations of the converged fit."""

    @field_validator("l2")
    @classmethod
    def _distinct(cls, l2: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(l2)) < len(l2):
            raise ValueError("must not repeat a strength")
        return tuple(sorted(l2))


class HeadConfig(ProbeConfig):
    """A linear classifier on frozen features of un-augmented training images."""

    fit: Literal["converged", "adam", "sgd"] = "converged"
    """`converged`: multinomial logistic regression, full batch; `adam` and `sgd`: minibatches, starting from torch's
    initial weights. Phases after a converged fit continue from it with Adam."""
    phases: tuple[Phase, ...] = Field(default=(), strict=False)
    """Phases of minibatch training: on clean images, or on images attacked through the encoder."""
    epochs: int = Field(default=1, ge=1)
    """Number of epochs of each phase."""
    lr: Real = Field(default=1e-3, gt=0)
    """Learning rate of Adam or SGD."""
    momentum: Real = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: Real = Field(default=0.0, ge=0)
    """Weight decay of SGD."""
    cosine_epochs: int | None = Field(default=None, ge=1)
    """Epochs after which a cosine schedule would reach a learning rate of 0; null: a constant rate."""
    batch_images: int = Field(default=256, ge=1)
    """Number of images of a minibatch."""
    norm: NormKey = "linf"
    """Norm of the ball in adversarial phases."""
    epsilon: Radius = 8 / 255
    """Radius of the ball in adversarial phases."""
    attack: Annotated[AttackConfig, ComponentField(ATTACKS, PgdConfig)] = PgdConfig(
        steps=5, step_size=2 / 255, loss="cross_entropy", every_step=False
    )
    """Attack of adversarial phases."""

    @property
    def selects_l2(self) -> bool:
        """Whether one of several L2 strengths has to be chosen, on held-out images."""
        return self.fit == "converged" and len(self.l2) > 1

    @model_validator(mode="after")
    def _fits_something(self) -> "HeadConfig":
        if self.fit != "converged" and not self.phases:
            raise ValueError(f"phases is empty, so a head with fit {self.fit} would not be trained: write [clean]")
        if "adversarial" in self.phases:
            self.attack.check_norm(self.norm)
        return self


PUBLISHED_ATTACK = PgdConfig(steps=5, step_size=0.01, start="zero", loss="cross_entropy", every_step=False)
"""Attack in the adversarial phases of the published heads."""
HEADS = {
    "standard": HeadConfig(),
    "adversarial": HeadConfig(phases=("adversarial",), epochs=5),
    "published-emp": HeadConfig(
        fit="adam", lr=3e-4, phases=("clean", "adversarial", "clean"), epochs=2, attack=PUBLISHED_ATTACK
    ),
    "published-simclr": HeadConfig(fit="adam", lr=3e-4, phases=("clean",), epochs=20),
    "published-simclr-robust": HeadConfig(
        fit="adam", lr=3e-4, phases=("adversarial",), epochs=20, attack=PUBLISHED_ATTACK
    ),
    "published-crops": HeadConfig(
        fit="sgd",
        lr=0.03,
        momentum=0.9,
        weight_decay=5e-5,
        cosine_epochs=100,
        phases=("clean",),
        epochs=100,
        batch_images=100,
    ),
}
"""Heads by name; `published-crops` reads the mean features of several crops (for SimCLR it ends after 20 epochs)."""

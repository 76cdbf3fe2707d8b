"""How a finished encoder is evaluated: heads, views and attacks, and the protocols that go by a name.

The field docstrings are the reference of every key of `python -m cfamc_ray.evaluate --set KEY=VALUE`.
"""

from typing import Literal

from pydantic import Field, model_validator

from cfamc_ray.config.types import Pixels, Real, Strict

Phase = Literal["clean", "adversarial"]


class AttackConfig(Strict):
    """Projected gradient descent in an l∞ ball; its radius stands where the attack is used."""

    steps: int = Field(default=20, ge=1)
    step_size: Pixels = 2 / 255
    """What one step adds to a pixel."""
    restarts: int = Field(default=1, ge=1)
    """Starts; an image counts as robust when none breaks it."""
    start: Literal["uniform", "zero"] = "uniform"
    """A random point of the ball, or the image itself."""


class HeadConfig(Strict):
    """A linear classifier of frozen features of un-augmented training images."""

    fit: Literal["converged", "adam", "sgd"] = "converged"
    """`converged`: multinomial logistic regression, full batch; `adam` and `sgd`: minibatches from torch's initial
    weights. Phases that follow a converged fit go on from it by Adam."""
    features: Literal["prefeature", "backbone"] = "prefeature"
    """What the head reads: the pre-feature, as published, or the backbone's output."""
    l2: Real = Field(default=1e-2, gt=0)
    """Of the converged fit: l2/2 times the squared norm of the weights of standardised features."""
    tolerance: Real = Field(default=1e-4, gt=0)
    """Of the converged fit: it ends when no entry of the objective's gradient exceeds this."""
    iterations: int = Field(default=200, ge=1)
    """Of the converged fit: L-BFGS iterations at most."""
    phases: tuple[Phase, ...] = Field(default=(), strict=False)
    """Passes by minibatches, one after another: on clean images, or on images attacked through the encoder."""
    epochs: int = Field(default=1, ge=1)
    """Of each phase."""
    lr: Real = Field(default=1e-3, gt=0)
    """Of Adam or SGD."""
    momentum: Real = Field(default=0.0, ge=0, lt=1)
    """Of SGD, as is the next."""
    weight_decay: Real = Field(default=0.0, ge=0)
    cosine_epochs: int | None = Field(default=None, ge=1)
    """Epochs after which a cosine would bring the rate to 0; null: a constant rate."""
    batch_images: int = Field(default=256, ge=1)
    attack_epsilon: Pixels = 8 / 255
    """Radius of the ball in adversarial phases."""
    attack: AttackConfig = AttackConfig(steps=5)
    """Of adversarial phases."""

    @model_validator(mode="after")
    def _fits_something(self) -> "HeadConfig":
        if self.fit != "converged" and not self.phases:
            raise ValueError(f"phases is empty, so a head with fit {self.fit} would never learn: write [clean]")
        return self


class ProtocolConfig(Strict):
    """What is measured of a frozen encoder, on the test split."""

    name: str
    head: HeadConfig = HeadConfig()
    crops: int = Field(default=0, ge=0)
    """0: the whole image; else the mean feature of so many crops of it, of fixed places and sizes."""
    attack_each_crop: bool = False
    """Whether every crop is attacked by itself, as published, instead of the image through its crops."""
    images: int = Field(default=10_000, ge=1)
    """Test images that are measured; all of them where there are fewer. This and the next two counts are stratified
    samples, seeded by `data.split_seed`, each part of the one before: a larger count than that means all of it."""
    attacked_images: int = Field(default=10_000, ge=1)
    """How many of `images` PGD attacks."""
    epsilons: tuple[Pixels, ...] = Field(default=(4 / 255, 8 / 255, 16 / 255), strict=False)
    """Radii at which PGD attacks."""
    attack: AttackConfig = AttackConfig(restarts=5)
    margin_check: bool = True
    """Whether PGD on the margin between logits attacks too, to show where cross-entropy's gradients vanished."""
    autoattack_images: int = Field(default=1_000, ge=0)
    """How many of `attacked_images` AutoAttack's standard version attacks, of which it sees what PGD left; 0: none."""
    autoattack_epsilons: tuple[Pixels, ...] = Field(default=(4 / 255, 8 / 255), strict=False)
    """Radii at which it does."""
    batch_images: int | None = Field(default=None, ge=1, le=250)
    """Images that the encoder sees at once. It decides memory and, but for rounding, no result. Null: as many as an
    attack's activations of 2 GB hold, from 1 to 250."""
    seed: int = Field(default=0, ge=0)
    """Seed of heads, attacks and crops."""

    @model_validator(mode="after")
    def _consistent(self) -> "ProtocolConfig":
        if self.attack_each_crop and self.crops == 0:
            raise ValueError("attack_each_crop needs crops, the number of crops of an image, which is 0")
        if self.attack_each_crop and self.autoattack_images:
            raise ValueError("autoattack_images must be 0 with attack_each_crop: AutoAttack attacks images")
        missing = sorted(set(self.autoattack_epsilons) - set(self.epsilons))
        if self.autoattack_images and missing:
            shown = ", ".join(f"{epsilon * 255:g}/255" for epsilon in missing)
            raise ValueError(f"autoattack_epsilons: {shown} is not among epsilons: AutoAttack runs on what PGD left")
        return self


PUBLISHED_ATTACK = AttackConfig(steps=5, step_size=0.01, start="zero")
"""In the adversarial phases of the published heads."""
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


def _published(name: str, *, steps: int) -> ProtocolConfig:
    """The test of a published script: few steps from zero, at the radii of the paper's table."""
    return ProtocolConfig(
        name=name,
        head=HEADS[name],
        epsilons=(4 / 255, 8 / 255),
        attack=AttackConfig(steps=steps, step_size=0.01, start="zero"),
        margin_check=False,
        autoattack_images=0,
        autoattack_epsilons=(),
    )


PROTOCOLS = {
    "standard": ProtocolConfig(name="standard"),
    "published-emp": _published("published-emp", steps=2),
    "published-simclr": _published("published-simclr", steps=20),
}
"""Protocols by name. The published ones test weaker than they say: 2 steps of 0.01 reach 5.1/255 of a ball of 8/255."""

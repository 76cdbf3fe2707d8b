"""What a search measures."""

from typing import Literal

from pydantic import Field

from cfamc_ray.config.data import DataSet
from cfamc_ray.config.types import Pixels, Real, Strict


class EvaluationConfig(Strict):
    """What a search measures on validation images."""

    every_epochs: int = Field(default=1, ge=1)
    """Epochs between two measurements; the last epoch is always measured."""
    transfer: DataSet | None = None
    """Another data set that the probe is fitted and judged on, the encoder being frozen; null: the one of `data`."""
    features: Literal["prefeature", "backbone"] = "prefeature"
    """What the linear probe reads: the pre-feature, as published, or the backbone's output."""
    probe_l2: Real = Field(default=1e-2, gt=0)
    """L2 strength of the probe: l2/2 times the squared norm of the weights is added to the mean cross-entropy, features
    being standardised first. Without it separable features drive the head, and its gradients, to extremes."""
    probe_tolerance: Real = Field(default=1e-4, gt=0)
    """The probe's fit ends when no entry of the objective's gradient exceeds this."""
    probe_iterations: int = Field(default=200, ge=1)
    """The probe's fit ends after so many L-BFGS iterations at the latest."""
    attack_epsilon: Pixels = 4 / 255
    """Radius of the l∞ ball of the threat model."""
    attack_steps: int = Field(default=10, ge=1)
    """Steps of projected gradient descent on the cross-entropy, in float32."""
    attack_step_ratio: Real = Field(default=0.25, gt=0)
    """Step size over attack_epsilon."""
    attack_restarts: int = Field(default=1, ge=1)
    """Random starts; an image counts as robust when none breaks it."""
    attack_images: int = Field(default=1_000, ge=1)
    """How many of the validation images are attacked, a stratified sample; all of them where there are fewer."""
    batch_images: int | None = Field(default=None, ge=1, le=250)
    """Images that the encoder sees at once, here and where `confirm` tests it. It decides memory and, but for rounding,
    no result. Null: as many as an attack's activations of 2 GB hold, from 1 to 250."""

"""What a search measures, and how."""

from typing import Annotated

from pydantic import Field, model_validator

from cfamc_ray.config.attacks import ATTACKS, AttackConfig, MarginsConfig
from cfamc_ray.config.components import ComponentField
from cfamc_ray.config.data import DataSet
from cfamc_ray.config.heads import ProbeConfig
from cfamc_ray.config.measures import AnyMeasure
from cfamc_ray.config.types import NormKey, Radius, Strict


class EvaluationConfig(Strict):
    """How a search evaluates a trial on validation images."""

    every_epochs: int = Field(default=1, ge=1)
    """Epochs between two evaluations; the last epoch is always evaluated."""
    transfer: DataSet | None = None
    """Another data set on which the probe is fitted and evaluated, with the encoder frozen; null: the one of `data`."""
    head: ProbeConfig = ProbeConfig()
    """Linear probe on the frozen encoder; its L2 strengths are the operating points of a trial."""
    norm: NormKey = "linf"
    """Norm of the attack's ball, here and in `confirm` and `cfamc evaluate`: `linf` limits the change of each value of
    each pixel, `l2` the length of an image's change. That of training is `perturbation.norm`."""
    epsilon: Radius = 4 / 255
    """Radius of the attack's ball: at most 1 with `linf`; with `l2` it has to be given (docs/numbers.md)."""
    attack: Annotated[AttackConfig, ComponentField(ATTACKS, MarginsConfig)] = MarginsConfig()
    """Attack that defines robust accuracy; the default attacks all operating points at once."""
    attacked_images: int = Field(default=2_000, ge=1)
    """Number of validation images that are attacked after the last epoch, a stratified sample; all of them if there
    are fewer."""
    interim_attacked_images: int = Field(default=500, ge=1)
    """The same after earlier epochs; never more than `attacked_images`."""
    measures: tuple[AnyMeasure, ...] = Field(default=(), strict=False)
    """Further measures of the encoder, computed on validation images; each may be an objective."""
    batch_images: int | None = Field(default=None, ge=1, le=250)
    """Images that the encoder processes at once, here and in `confirm`. It sets the memory used and, up to
    rounding, changes no result. Null: as many as fit into 2 GB of an attack's activations, from 1 to 250."""

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluationConfig":
        self.attack.check_norm(self.norm)
        names = [measure.component_name() for measure in self.measures]
        if len(set(names)) < len(names):
            raise ValueError(f"measures must not repeat a name, as it would here: {', '.join(names)}")
        return self

    def attacked(self, *, last: bool) -> int:
        """Number of images to attack after the last epoch, or after an earlier one."""
        return self.attacked_images if last else min(self.attacked_images, self.interim_attacked_images)

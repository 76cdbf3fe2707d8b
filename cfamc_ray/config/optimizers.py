"""The optimizers of pretraining and their keys."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from cfamc_ray.config.components import Component, Registry
from cfamc_ray.config.types import Real


class OptimizerConfig(Component):
    """How weights are updated; `build(parameters, compiled=...)` gives a `cfamc_ray.method.optimizer.Optimizer`."""

    graphed: ClassVar[bool] = False
    """Whether its steps can be captured in a CUDA graph."""

    name: str
    """Name of the optimizer."""
    lr: Real = Field(gt=0)
    """Largest learning rate."""
    weight_decay: Real = Field(ge=0)
    """Weight decay of the weights; biases and norm parameters have none."""
    schedule: Literal["updates", "minibatches", "constant"] = "updates"
    """Horizon of the cosine, which advances at each weight update: all `updates`, or, as published, the number of
    `minibatches`, which ends at zero for odd replays and at the full rate for even ones. `constant`: no schedule."""
    warm_up: Real = Field(default=0.0, ge=0, lt=1, exclude_if=lambda share: share == 0)
    """Share of the horizon (of all updates if the schedule is constant) in which the rate grows linearly to `lr`; the
    cosine takes the rest. Published: 0."""


OPTIMIZERS = Registry[OptimizerConfig]("optimizer")


@OPTIMIZERS.register
class LarsConfig(OptimizerConfig):
    """SGD with Nesterov momentum and LARS, as published."""

    implementation: ClassVar[str] = "cfamc_ray.method.optimizer:build_lars"
    graphed: ClassVar[bool] = True
    unnamed: ClassVar[bool] = True

    name: Literal["lars"] = "lars"
    lr: Real = Field(default=0.3, gt=0)
    """Largest effective learning rate of a layer. LARS gives weights far smaller local rates, so this hardly affects
    them."""
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    """Nesterov momentum."""
    weight_decay: Real = Field(default=1e-4, ge=0)
    """Weight decay (L2) of the weights; biases and norm parameters have none."""
    trust_coefficient: Real | None = Field(default=0.005, gt=0)
    """Trust coefficient of LARS, which determines how fast weights change; null switches LARS off."""


@OPTIMIZERS.register
class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay (arXiv 1711.05101), with which vision transformers are commonly trained."""

    implementation: ClassVar[str] = "cfamc_ray.method.optimizer:build_adamw"

    name: Literal["adamw"] = "adamw"
    lr: Real = Field(default=1e-3, gt=0)
    """Largest learning rate."""
    betas: tuple[Real, Real] = Field(default=(0.9, 0.999), strict=False)
    """Decay of the means of gradients and of their squares, each at least 0 and below 1."""
    weight_decay: Real = Field(default=0.05, ge=0)
    """Decoupled weight decay of the weights; biases and norm parameters have none."""

    @model_validator(mode="after")
    def _sensible(self) -> "AdamWConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        return self

"""The perturbation of crops: how the inner maximisation finds it, and its keys."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cfamc_ray.config.components import Component, Registry
from cfamc_ray.config.types import Pixels, Real

if TYPE_CHECKING:
    from cfamc_ray.config.trial import TrialConfig


class PerturbationConfig(Component):
    """An inner maximisation, which moves one perturbation per crop to increase the loss.

    `build(trial)` gives a `cfamc_ray.method.learner.InnerMaximization`.
    """

    attack: str
    """How the perturbation is found."""

    @property
    def attack_passes(self) -> int:
        """Forward and backward passes of a crop per minibatch that serve the attack alone."""
        return 0

    @property
    def attack_gradients_of_weights(self) -> bool:
        """Whether these passes also compute gradients of the weights, which makes them as costly as an update's."""
        return False

    @property
    def starts_anew(self) -> bool:
        """Whether every minibatch begins with a perturbation of zero."""
        return False

    def radii(self, views: int) -> list[float]:
        """Radius of the l∞ ball for each view, in pixels; 0 for a view that stays as it is."""
        return [0.0] * views

    def check(self, trial: "TrialConfig") -> None:
        """Refuse other keys of the trial that do not go together with these.

        Raises:
            ValueError: that names the keys and what would be right.
        """


PERTURBATIONS = Registry[PerturbationConfig]("attack")


class BallConfig(PerturbationConfig):
    """One perturbation per crop, inside the l∞ ball of radius epsilon and inside the pixel box."""

    epsilon: Pixels = 8 / 255
    """Radius of the ball."""
    step_ratio: Real = Field(default=0.01 * 255 / 8, gt=0)
    """Step size over epsilon; the published step of 0.01 at 8/255 is 0.31875."""
    clean_views: int = Field(default=0, ge=0)
    """So many of the first views stay as they are; SimCLR's adversarial form compares a clean view with a perturbed."""
    carry: bool = True
    """Whether the perturbation is carried over to the next minibatch's crops by position; else it starts at zero."""

    @property
    def step_size(self) -> float:
        """What one ascent step adds to a pixel."""
        return self.step_ratio * self.epsilon

    @property
    def starts_anew(self) -> bool:
        """See the base class."""
        return not self.carry

    def radii(self, views: int) -> list[float]:
        """See the base class."""
        return [0.0] * self.clean_views + [self.epsilon] * (views - self.clean_views)

    def check(self, trial: "TrialConfig") -> None:
        """See the base class."""
        if self.clean_views >= trial.crops.views:
            raise ValueError(
                f"perturbation.clean_views {self.clean_views} leaves none of crops.views {trial.crops.views} to "
                "perturb: lower it, or set perturbation.attack to none"
            )


@PERTURBATIONS.register
class FreeAttackConfig(BallConfig):
    """Free adversarial training: the backward pass of each replay also moves the perturbation."""

    implementation: ClassVar[str] = "cfamc_ray.method.inner_maximization:FreeReplays.of_config"

    attack: Literal["free"] = "free"
    project_first: bool = True
    """Whether a carried perturbation is clipped to its new crops before the first replay (published: no)."""


@PERTURBATIONS.register
class PgdAttackConfig(BallConfig):
    """Projected gradient descent: separate attack passes before one weight update."""

    implementation: ClassVar[str] = "cfamc_ray.method.inner_maximization:PgdUpdate"

    attack: Literal["pgd"] = "pgd"
    steps: int = Field(default=5, ge=1)
    """Attack passes per minibatch."""
    keep_attack_gradients: bool = False
    """Whether the weight update also adds the weight gradients of the attack passes (published: yes)."""
    attack_in_train_mode: bool = True
    """Whether batch norm uses and moves its batch statistics in the attack passes (published: yes)."""
    attack_positive: Literal["first", "self"] = "first"
    """Positive of the perturbed second view in the attack passes under `nt_xent`: the clean `first` view, as in the
    update, or `self`, the second view without its perturbation (published)."""

    @property
    def attack_passes(self) -> int:
        """See the base class."""
        return self.steps

    @property
    def attack_gradients_of_weights(self) -> bool:
        """See the base class."""
        return self.keep_attack_gradients

    def check(self, trial: "TrialConfig") -> None:
        """See the base class."""
        super().check(trial)
        if trial.pretraining.replays != 1:
            raise ValueError(
                f"pretraining.replays must be 1 with perturbation.attack pgd, not {trial.pretraining.replays}: "
                "its attack passes are perturbation.steps"
            )
        if self.attack_positive == "self" and not (trial.loss.pair and self.clean_views == 1):
            raise ValueError(
                "perturbation.attack_positive self needs a loss of pairs such as nt_xent and "
                f"perturbation.clean_views 1, not {trial.loss.component_name()} and {self.clean_views}: set it to first"
            )


@PERTURBATIONS.register
class NoAttackConfig(PerturbationConfig):
    """Ordinary pretraining: the perturbation stays zero."""

    implementation: ClassVar[str] = "cfamc_ray.method.inner_maximization:FreeReplays.without_attack"

    attack: Literal["none"] = "none"

"""The perturbation of crops: the inner maximisations and their keys."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cfamc_ray.config.components import Component, Registry
from cfamc_ray.config.types import Norm, NormKey, Radius, Real

if TYPE_CHECKING:
    from cfamc_ray.config.trial import TrialConfig


class PerturbationConfig(Component):
    """An inner maximisation, which moves one perturbation per crop to increase the loss.

    `build(trial)` gives a `cfamc_ray.method.learner.InnerMaximization`.
    """

    attack: str
    """Name of the inner maximisation."""

    @property
    def attack_passes(self) -> int:
        """Forward and backward passes of a crop per minibatch that serve only the attack."""
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
        """Radius of the ball for each view, in `radii_norm`; 0 for a view that is not perturbed."""
        return [0.0] * views

    @property
    def radii_norm(self) -> Norm:
        """Norm of the balls."""
        return "linf"

    def check(self, trial: "TrialConfig") -> None:
        """Refuse keys of the trial that are incompatible with this attack.

        Raises:
            ValueError: if there are any; the message names the keys and what would be right.
        """


PERTURBATIONS = Registry[PerturbationConfig]("attack")


class BallConfig(PerturbationConfig):
    """One perturbation per crop, inside the ball of radius epsilon and inside the pixel box."""

    norm: NormKey = "linf"
    """Norm of the ball: `linf` limits the change of each value of each pixel, `l2` the length of a crop's change."""
    epsilon: Radius = 8 / 255
    """Radius of the ball: at most 1 with `linf`; with `l2` it has to be given (docs/numbers.md)."""
    step_ratio: Real = Field(default=0.01 * 255 / 8, gt=0)
    """Step size divided by epsilon; the published step of 0.01 at 8/255 is 0.31875."""
    clean_views: int = Field(default=0, ge=0)
    """Number of leading views that are not perturbed; adversarial SimCLR compares a clean view with a perturbed one."""
    carry: bool = True
    """Whether the perturbation is carried over to the next minibatch's crops by position; if not, it starts at zero."""

    @property
    def step_size(self) -> float:
        """Size of one ascent step in the norm: the change of each value, or the length of the change of a crop."""
        return self.step_ratio * self.epsilon

    @property
    def starts_anew(self) -> bool:
        """See the base class."""
        return not self.carry

    def radii(self, views: int) -> list[float]:
        """See the base class."""
        return [0.0] * self.clean_views + [self.epsilon] * (views - self.clean_views)

    @property
    def radii_norm(self) -> Norm:
        """See the base class."""
        return self.norm

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
    """Number of attack passes per minibatch."""
    keep_attack_gradients: bool = False
    """Whether the weight update also adds the weight gradients of the attack passes (published: yes)."""
    attack_in_train_mode: bool = True
    """Whether batch norm uses batch statistics and updates its running statistics in attack passes (published: yes)."""
    attack_positive: Literal["first", "self"] = "first"
    """Positive of the perturbed second view in the attack passes with `nt_xent`: the clean `first` view, as in the
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
    """Pretraining without an attack: the perturbation stays zero."""

    implementation: ClassVar[str] = "cfamc_ray.method.inner_maximization:FreeReplays.without_attack"

    attack: Literal["none"] = "none"

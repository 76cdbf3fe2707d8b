"""The attacks that measure robust accuracy, and their keys."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import Field

from cfamc_ray.config.components import Component, Registry
from cfamc_ray.config.types import Norm, Pixels, Real


class AttackPasses(NamedTuple):
    """Largest number of passes of one image through the classifier in an attack."""

    forward: int
    backward: int
    """From the logits back to the pixels; the weights' gradients are not computed."""


class AttackConfig(Component):
    """An attack in a ball, whose norm and radius are set where the attack is used.

    `build()` gives a `cfamc_ray.evaluation.attacks.Attack`.
    """

    needs_float32: ClassVar[bool] = False
    """Whether it works only with float32 weights."""
    images_only: ClassVar[bool] = False
    """Whether it takes only images (N, C, H, W), not the crops of each image (N, V, C, H, W)."""
    whole_sample: ClassVar[bool] = False
    """Whether it takes all images in one call and makes its own batches, instead of at most 250 images per call."""
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    """Norms of the balls in which it can attack. Only an attack with several of them is called with `norm`."""

    @property
    def shares_heads(self) -> bool:
        """Whether `build()` gives a `SharedAttack`, which attacks several heads of one encoder at once."""
        return False

    @property
    def id(self) -> str:
        """Identifier of the attack in results; different settings may share an id, attacks of one protocol may not."""
        return self.component_name()

    @property
    def label(self) -> str:
        """Name of the attack in tables and messages."""
        return self.component_name()

    def on_margin(self) -> "AttackConfig | None":
        """The same attack on the logit margin; None if there is none, or if this attack is already on the margin."""
        return None

    def check_norm(self, norm: Norm) -> None:
        """Refuse a norm in which the attack cannot attack.

        Raises:
            ValueError: for such a norm.
        """
        if norm not in self.norms:
            raise ValueError(f"norm must be {' or '.join(self.norms)} with attack.name {self.component_name()}")

    def ball(self, epsilon: float, norm: Norm) -> dict[str, Any]:
        """The arguments by which the attack is told its ball.

        Args:
            epsilon: radius of the ball around each image.
            norm: norm of the ball.
        """
        return {"epsilon": epsilon, "norm": norm} if len(self.norms) > 1 else {"epsilon": epsilon}

    @abstractmethod
    def passes(self) -> AttackPasses:
        """Forward and backward passes per image if the image withstands the whole attack."""


ATTACKS = Registry[AttackConfig]("attack")


@ATTACKS.register
class PgdConfig(AttackConfig):
    """Projected gradient descent (arXiv 1706.06083)."""

    implementation: ClassVar[str] = "cfamc_ray.evaluation.attacks:Pgd"
    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)

    name: Literal["pgd"] = "pgd"
    steps: int = Field(default=10, ge=1)
    """Number of ascent steps of each start."""
    step_ratio: Real = Field(default=0.25, gt=0)
    """Step size divided by the radius of the ball; ignored if step_size is given."""
    step_size: Pixels | None = None
    """Step size in pixels, the same at every radius, in the l∞ norm alone; null: step_ratio times the radius."""
    restarts: int = Field(default=1, ge=1)
    """Number of starts; an image counts as robust if none of them breaks it."""
    start: Literal["uniform", "zero"] = "uniform"
    """Where each start begins: at a random point of the ball, or at the image itself."""
    loss: Literal["cross_entropy", "margin"] = "margin"
    """Loss that the attack maximises: the largest wrong logit minus the true one (arXiv 1608.04644), which comes
    closest to AutoAttack (`docs/results.md`); or the cross-entropy, whose gradient vanishes where the classifier is
    very confident, and pushes all wrong classes where it is very unsure."""
    every_step: bool = True
    """Whether an image counts as broken if it is misclassified at any step, not only at the last step of a start: a
    stronger attack that costs less."""

    @property
    def id(self) -> str:
        """``pgd``, or ``pgd_margin`` for the margin loss."""
        return "pgd_margin" if self.loss == "margin" else "pgd"

    @property
    def label(self) -> str:
        """Label such as ``PGD-20`` or ``PGD-20 on the margin``."""
        return f"PGD-{self.steps}{' on the margin' if self.loss == 'margin' else ''}"

    def on_margin(self) -> "PgdConfig | None":
        """The same attack with the margin loss; None if this attack has it already."""
        return None if self.loss == "margin" else self.model_copy(update={"loss": "margin"})

    def check_norm(self, norm: Norm) -> None:
        """See the base class; a step in pixels has no meaning in the l2 norm."""
        super().check_norm(norm)
        if norm != "linf" and self.step_size is not None:
            raise ValueError(
                f"attack.step_size must be null with norm {norm}: a step is attack.step_ratio times the radius"
            )

    def passes(self) -> AttackPasses:
        """One forward and one backward pass per step, and one forward pass that classifies the end of each start."""
        return AttackPasses(forward=self.restarts * (self.steps + 1), backward=self.restarts * self.steps)

    def step_at(self, epsilon: float) -> float:
        """Step size, in the norm of the ball.

        Args:
            epsilon: radius of the ball.
        """
        return self.step_ratio * epsilon if self.step_size is None else self.step_size


@ATTACKS.register
class MarginsConfig(AttackConfig):
    """Three starts of gradient ascent on logit margins, for all operating points of an encoder at once."""

    implementation: ClassVar[str] = "cfamc_ray.evaluation.margins:Margins"
    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)

    name: Literal["margins"] = "margins"
    steps: int = Field(default=10, ge=1)
    """Number of ascent steps of each of the three starts; an image counts as broken if it is misclassified at any
    step."""

    @property
    def shares_heads(self) -> bool:
        """True."""
        return True

    @property
    def label(self) -> str:
        """Label such as ``margins-30``, with the number of steps of all starts."""
        return f"margins-{3 * self.steps}"

    def passes(self) -> AttackPasses:
        """One forward and one backward pass per step, one forward pass that ends each start, and one for its target."""
        return AttackPasses(forward=3 * (self.steps + 1) + 1, backward=3 * self.steps)


@ATTACKS.register
class AutoAttackConfig(AttackConfig):
    """AutoAttack's standard version (arXiv 2003.01690): APGD on two losses, targeted FAB and Square, in sequence."""

    implementation: ClassVar[str] = "cfamc_ray.evaluation.autoattack:StandardAutoAttack"
    norms: ClassVar[tuple[Norm, ...]] = get_args(Norm)
    needs_float32: ClassVar[bool] = True
    images_only: ClassVar[bool] = True
    whole_sample: ClassVar[bool] = True  # its last check compares accuracies on all images

    name: Literal["autoattack"] = "autoattack"

    @property
    def label(self) -> str:
        """Name of the attack as its authors spell it."""
        return "AutoAttack"

    def passes(self) -> AttackPasses:
        """Passes for 9 targets with 100 iterations, 5000 queries, and chunks whose activations are recomputed."""
        targets, steps = 9, 100
        backward = (steps + 1) + targets * (steps + 1) + targets * steps  # APGD, targeted APGD, targeted FAB
        apgd = (2 + steps + 1) + (2 + targets * (1 + steps + 1))
        fab, square, checks = 2 + targets * (3 + 2 * steps), 4 + 5000, 9
        return AttackPasses(forward=apgd + fab + square + checks + backward, backward=backward)

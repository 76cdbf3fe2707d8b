"""Fine-tuning of an encoder with its head, on labels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cfamc_ray.config.attacks import ATTACKS, AttackConfig, PgdConfig
from cfamc_ray.config.components import ComponentField
from cfamc_ray.config.types import Norm, Radius, Real, Strict


class FinetuneConfig(Strict):
    """Training of the encoder together with its head, on the labels of un-augmented training images.

    First the statistics of batch norms are replaced by those of the training images, and the head is fitted on frozen
    features (arXiv 2202.10054). From there SGD with Nesterov momentum 0.9 minimises the cross-entropy, while a cosine
    schedule lowers the learning rate to 0.
    """

    layers: Literal["none", "last_block", "all"] = "none"
    """What is trained: nothing, so that the encoder stays frozen; the last block of the backbone and what comes after
    it, while batch norms in other layers keep their statistics; or the whole network."""
    training: Literal["standard", "adversarial"] = "standard"
    """Whether the training images are clean or attacked by `attack` (arXiv 1706.06083)."""
    epochs: int = Field(default=20, ge=1)
    """Number of passes over the training images."""
    lr: Real = Field(default=0.01, gt=0)
    """Learning rate of the first minibatch."""
    weight_decay: Real = Field(default=5e-4, ge=0)
    """Weight decay (L2) of the weights; biases and norms have none."""
    batch_images: int = Field(default=128, ge=2)
    """Number of images of a minibatch. All minibatches of an epoch are as large as this or, where it does not divide
    the number of images, larger; so none is too small for batch norm."""
    epsilon: Radius = 8 / 255
    """Radius of the ball in adversarial training, in the norm of the protocol; with `l2` it has to be given."""
    attack: Annotated[AttackConfig, ComponentField(ATTACKS, PgdConfig)] = PgdConfig(
        steps=5, step_size=2 / 255, loss="cross_entropy", every_step=False
    )
    """Attack of adversarial training, on the network in evaluation mode."""

    def check_norm(self, norm: Norm) -> None:
        """Refuse an attack or a radius of adversarial training that does not suit a norm.

        Raises:
            ValueError: whose message begins with the key.
        """
        if self.training == "standard":
            return
        self.attack.check_norm(norm)
        if norm == "linf" and self.epsilon > 1:
            raise ValueError("finetune.epsilon must be less than or equal to 1 with norm linf, as in 8/255")
        if norm == "l2" and self.epsilon == type(self).model_fields["epsilon"].default:
            raise ValueError("finetune.epsilon: give a radius with norm l2, such as 1; 8/255 is the default of linf")

    @model_validator(mode="after")
    def _trains_something(self) -> "FinetuneConfig":
        idle = [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default]
        if self.layers == "none" and idle:
            raise ValueError(
                f"{idle[0]} is set, but layers is none, so nothing is trained: set layers to all or last_block"
            )
        if self.training == "standard" and (unused := [key for key in ("epsilon", "attack") if key in idle]):
            raise ValueError(
                f"{unused[0]} is set, but training is standard, which attacks nothing: set it to adversarial"
            )
        return self

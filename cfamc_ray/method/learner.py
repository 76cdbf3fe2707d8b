"""The interface of an inner maximisation, and what it trains.

Shapes: V views, B images, C/H/W channels/height/width, D embedding width, R weight updates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cfamc_ray.config.types import Norm

Encoder = Callable[[Tensor], Tensor]
"""Maps pixels (V*B, C, H, W) to rows of unit length (V*B, D)."""
LossFunction = Callable[[Tensor], Tensor]
"""Maps z_VBD to a scalar."""
Update = Callable[..., tuple[Tensor, Tensor]]
"""One update of the weights: maps crops, perturbation and further inputs to the moved perturbation and the loss."""


class Runner(Protocol):
    """Runs an update, eagerly or as its captured CUDA graph (`cuda_graph.GraphedUpdate`)."""

    def __call__(self, update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the update; return the moved perturbation and the loss."""


def eagerly(update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run an update by calling it."""
    return update(*inputs)


@dataclass(frozen=True)
class Learner:
    """The encoder with everything that is needed to train it.

    Attributes:
        encoder: module that holds the weights.
        network: calls the encoder, compiled or in chunks; its backward pass leaves this worker's gradients.
        replica: like `network`, but its backward pass leaves the sum over all workers; `network` itself for one worker.
        optimizer: optimizer of the encoder's weights.
        scheduler: schedule, to be advanced at each weight update; None for a constant rate.
        loss_of: maps z_VBD of this worker to the loss over the minibatch of all workers.
        attack_loss_of: the same for passes that serve only the attack, whose terms are not reported.
        epsilon: radius of the ball for each view, (V, 1, 1, 1, 1).
        norm: norm of the balls.
        compiled: whether the network is compiled.
        run: runner of each weight update.
    """

    encoder: nn.Module
    network: Encoder
    replica: Encoder
    optimizer: Optimizer
    scheduler: LRScheduler | None
    loss_of: LossFunction
    attack_loss_of: LossFunction
    epsilon: Tensor
    norm: Norm
    compiled: bool
    run: Runner


class InnerMaximization(Protocol):
    """Trains on one minibatch and moves its perturbation; `PerturbationConfig.build` gives one."""

    def __call__(self, learner: Learner, crops_VBCHW: Tensor, delta_VBCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a minibatch.

        Args:
            learner: the encoder and what trains it; changed in place.
            crops_VBCHW: pixels in [0, 1].
            delta_VBCHW: perturbation after the last minibatch, or zeros; not changed.

        Returns:
            The moved perturbation, and losses_R, one for each weight update.
        """

"""What an inner maximisation is given to train, and what it is.

Shapes: V views, B images, C/H/W channels/height/width, D embedding width, R weight updates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Encoder = Callable[[Tensor], Tensor]
"""(V*B, C, H, W) pixels to (V*B, D) unit rows."""
LossFunction = Callable[[Tensor], Tensor]
"""z_VBD to a scalar."""
Update = Callable[..., tuple[Tensor, Tensor]]
"""Crops, perturbation and what else one update of the weights reads, to the moved perturbation and the loss."""


class Runner(Protocol):
    """How an update is run: eagerly, or as the CUDA graph that was captured of it (`cuda_graph.GraphedUpdate`)."""

    def __call__(self, update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The moved perturbation and the loss."""


def eagerly(update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Call it."""
    return update(*inputs)


@dataclass(frozen=True)
class Learner:
    """What is trained, and how.

    Attributes:
        encoder: holds the weights.
        network: calls the encoder, compiled or chunk by chunk; its backward pass leaves this worker's gradients.
        replica: likewise, but its backward pass leaves the sum over all workers; the network itself with one worker.
        optimizer: of the encoder's weights.
        scheduler: to be advanced at each weight update; None for a constant rate.
        loss_of: z_VBD of this worker to the loss over the minibatch of all workers.
        attack_loss_of: the same for passes that serve the attack alone, whose terms are not reported.
        epsilon: radius of the l∞ ball for each view, (V, 1, 1, 1, 1).
        compiled: whether the network is compiled.
        run: how each weight update is run.
    """

    encoder: nn.Module
    network: Encoder
    replica: Encoder
    optimizer: Optimizer
    scheduler: LRScheduler | None
    loss_of: LossFunction
    attack_loss_of: LossFunction
    epsilon: Tensor
    compiled: bool
    run: Runner


class InnerMaximization(Protocol):
    """What a `PerturbationConfig` builds: trains on one minibatch and moves its perturbation."""

    def __call__(self, learner: Learner, crops_VBCHW: Tensor, delta_VBCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a minibatch.

        Args:
            learner: is trained in place.
            crops_VBCHW: pixels in [0, 1].
            delta_VBCHW: perturbation that the last minibatch left, or zeros; not changed.

        Returns:
            the moved perturbation, and losses_R, one for each weight update.
        """

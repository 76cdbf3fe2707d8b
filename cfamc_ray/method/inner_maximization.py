"""The training loop of one minibatch: free replays, or separate attack passes before one update.

Shapes: V views, B images, C/H/W channels/height/width, D embedding width, R replays.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cfamc_ray.config.perturbation import FreeAttackConfig, NoAttackConfig, PgdAttackConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.method.learner import Encoder, Learner, LossFunction, Runner, eagerly
from cfamc_ray.method.perturbation import Radius, ascend, project
from cfamc_ray.method.phases import phase


@dataclass(frozen=True)
class FreeReplays:
    """Free adversarial training (`free_replays`).

    Attributes:
        replays: weight updates on the same crops (m).
        step_size: step size of the ascent, in the norm of the ball.
        project_first: whether a carried perturbation is clipped to its new crops before the first replay.
    """

    replays: int
    step_size: float = 0.0
    project_first: bool = True

    @classmethod
    def of_config(cls, config: FreeAttackConfig, trial: TrialConfig) -> "FreeReplays":
        """Create the free replays of a trial's config."""
        return cls(trial.pretraining.replays, config.step_size, config.project_first)

    @classmethod
    def without_attack(cls, config: NoAttackConfig, trial: TrialConfig) -> "FreeReplays":
        """Create pretraining without an attack: the same updates with a constant perturbation."""
        return cls(trial.pretraining.replays)

    def __call__(self, learner: Learner, crops_VBCHW: Tensor, delta_VBCHW: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMaximization`."""
        return free_replays(
            learner.replica,
            learner.optimizer,
            learner.scheduler,
            crops_VBCHW,
            delta_VBCHW,
            loss_function=learner.loss_of,
            replays=self.replays,
            epsilon=learner.epsilon,
            norm=learner.norm,
            step_size=self.step_size,
            project_first=self.project_first,
            run=learner.run,
        )


class PgdUpdate:
    """Projected gradient descent before each update (`pgd_update`)."""

    def __init__(self, config: PgdAttackConfig, trial: TrialConfig) -> None:
        self.config = config

    def __call__(self, learner: Learner, crops_VBCHW: Tensor, delta_VBCHW: Tensor) -> tuple[Tensor, Tensor]:
        """See `InnerMaximization`."""
        return pgd_update(
            learner.replica,
            learner.optimizer,
            learner.scheduler,
            crops_VBCHW,
            delta_VBCHW,
            loss_function=learner.loss_of,
            steps=self.config.steps,
            epsilon=learner.epsilon,
            norm=learner.norm,
            step_size=self.config.step_size,
            attack_encoder=partial(self._attack_pass, learner),
            attack_crops_VBCHW=crops_VBCHW[1:] if self.config.attack_positive == "self" else None,
            attack_loss_function=learner.attack_loss_of,
            keep_attack_gradients=self.config.keep_attack_gradients,
            run=learner.run,
        )

    def _attack_pass(self, learner: Learner, images_NCHW: Tensor) -> Tensor:
        """Embeddings of an attack pass, with the encoder in the attack's mode."""
        encoder = learner.encoder
        # Otherwise the compiled backward pass would also compute the weights' gradients.
        frozen = learner.compiled and not self.config.keep_attack_gradients
        encoder.train(self.config.attack_in_train_mode)
        if frozen:
            encoder.requires_grad_(False)
        z_ND = learner.network(images_NCHW)
        encoder.train()
        if frozen:
            encoder.requires_grad_(True)
        return z_ND


def free_replays(
    encoder: Encoder,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    crops_VBCHW: Tensor,
    delta_VBCHW: Tensor,
    *,
    loss_function: LossFunction,
    replays: int,
    epsilon: Radius,
    step_size: float,
    project_first: bool = True,
    run: Runner = eagerly,
    norm: Norm = "linf",
) -> tuple[Tensor, Tensor]:
    """Train on the same crops several times; each backward pass also moves the perturbation (CF-AMC-SSL, algorithm 1).

    Args:
        encoder: maps pixels to unit rows; trained in place.
        optimizer: optimizer of the encoder's parameters; one step per replay.
        scheduler: schedule, advanced once per replay; None for a constant rate.
        crops_VBCHW: pixels in [0, 1].
        delta_VBCHW: perturbation after the last minibatch, or zeros; not changed.
        loss_function: loss of the embeddings.
        replays: number of updates on these crops (m), at least 1.
        epsilon: radius of the ball, a number or a tensor that broadcasts.
        step_size: step size of the ascent, in the norm.
        project_first: whether delta is clipped to these crops before the first replay (published: no).
        run: runner of each replay.
        norm: norm of the ball, of each crop.

    Returns:
        The moved perturbation, and losses_R.
    """
    moved = partial(ascend, step_size=step_size, epsilon=epsilon, norm=norm)

    def replay(crops_VBCHW: Tensor, delta_VBCHW: Tensor) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()
        loss, gradient_VBCHW = _backward(encoder, loss_function, crops_VBCHW, delta_VBCHW)
        _step(optimizer)
        return moved(delta_VBCHW, gradient_VBCHW, crops_VBCHW), loss

    if project_first:
        delta_VBCHW = project(delta_VBCHW, crops_VBCHW, epsilon=epsilon, norm=norm)
    losses = []
    for _ in range(replays):
        delta_VBCHW, loss = run(replay, crops_VBCHW, delta_VBCHW)
        losses.append(loss)
        if scheduler is not None:
            scheduler.step()
    return delta_VBCHW, torch.stack(losses)


def pgd_update(
    encoder: Encoder,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    crops_VBCHW: Tensor,
    delta_VBCHW: Tensor,
    *,
    loss_function: LossFunction,
    steps: int,
    epsilon: Radius,
    step_size: float,
    attack_encoder: Encoder | None = None,
    attack_crops_VBCHW: Tensor | None = None,
    attack_loss_function: LossFunction | None = None,
    keep_attack_gradients: bool = False,
    run: Runner = eagerly,
    norm: Norm = "linf",
) -> tuple[Tensor, Tensor]:
    """Ascend for several steps, then train once on the perturbed crops: the published PGD baselines.

    Args:
        encoder: maps pixels to unit rows; trained in place.
        optimizer: optimizer of the encoder's parameters; one step.
        scheduler: schedule, advanced once; None for a constant rate.
        crops_VBCHW: pixels in [0, 1].
        delta_VBCHW: start of the attack; not changed.
        loss_function: loss of the embeddings.
        steps: number of attack passes (k).
        epsilon: radius of the ball, a number or a tensor that broadcasts.
        step_size: step size of the ascent, in the norm.
        attack_encoder: encoder of the attack passes, if it differs (in another mode, or the module inside a
            data-parallel wrapper).
        attack_crops_VBCHW: crops that the attack passes perturb, if they differ; equal in all views whose radius is
            above 0.
        attack_loss_function: loss that the attack passes ascend, if it differs.
        keep_attack_gradients: whether the attack passes' weight gradients add to the update's, as published.
        run: runner of the attack and the update.
        norm: norm of the ball, of each crop.

    Returns:
        The moved perturbation, and losses_1.
    """
    attack_encoder, attack_loss_function = attack_encoder or encoder, attack_loss_function or loss_function
    attack_crops_VBCHW = crops_VBCHW if attack_crops_VBCHW is None else attack_crops_VBCHW
    moved = partial(ascend, step_size=step_size, epsilon=epsilon, norm=norm)

    def update(crops_VBCHW: Tensor, delta_VBCHW: Tensor, attack_crops_VBCHW: Tensor) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()
        delta_VBCHW = project(delta_VBCHW, attack_crops_VBCHW, epsilon=epsilon, norm=norm)
        for _ in range(steps):
            if keep_attack_gradients:
                _, gradient_VBCHW = _backward(attack_encoder, attack_loss_function, attack_crops_VBCHW, delta_VBCHW)
            else:
                perturbed_VBCHW = (attack_crops_VBCHW + delta_VBCHW).requires_grad_()
                loss = _loss_of(attack_encoder, attack_loss_function, perturbed_VBCHW)
                with phase("backward"):
                    (gradient_VBCHW,) = torch.autograd.grad(loss, perturbed_VBCHW)
            delta_VBCHW = moved(delta_VBCHW, gradient_VBCHW, attack_crops_VBCHW)
        loss, _ = _backward(encoder, loss_function, crops_VBCHW, delta_VBCHW)
        _step(optimizer)
        return delta_VBCHW, loss

    delta_VBCHW, loss = run(update, crops_VBCHW, delta_VBCHW, attack_crops_VBCHW)
    if scheduler is not None:
        scheduler.step()
    return delta_VBCHW, loss[None]


def _backward(
    encoder: Encoder, loss_function: LossFunction, crops_VBCHW: Tensor, delta_VBCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """Accumulate the weights' gradients of one pass; return the detached loss and the gradient of the crops."""
    perturbed_VBCHW = (crops_VBCHW + delta_VBCHW).requires_grad_()
    loss = _loss_of(encoder, loss_function, perturbed_VBCHW)
    with phase("backward"):
        loss.backward()
    assert perturbed_VBCHW.grad is not None
    return loss.detach(), perturbed_VBCHW.grad


def _loss_of(encoder: Encoder, loss_function: LossFunction, images_VBCHW: Tensor) -> Tensor:
    V, B = images_VBCHW.shape[:2]
    with phase("forward"):
        z_VBD = encoder(images_VBCHW.flatten(0, 1)).unflatten(0, (V, B))
    with phase("loss"):
        return loss_function(z_VBD)


@phase("optimizer")
def _step(optimizer: Optimizer) -> None:
    optimizer.step()

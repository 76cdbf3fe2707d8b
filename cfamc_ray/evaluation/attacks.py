"""The interface of attacks, and projected gradient descent on a classifier.

Shapes: N images, C/H/W channels/height/width, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.attacks import PgdConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.method.parallel import ALONE, DistributedContext
from cfamc_ray.method.perturbation import CROP, ascend, project, steepest

Logits = Callable[[Tensor], Tensor]
"""Maps pixels (N, C, H, W) in [0, 1] to logits (N, K)."""


class AttackInvalid(Exception):  # noqa: N818 (the classifier is at fault, not the program)
    """An attack found that its result does not measure the classifier's robustness."""


class Attack(Protocol):
    """An attack; `AttackConfig.build` gives one."""

    def __call__(
        self,
        logits_of: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilon: float,
        generator: torch.Generator,
        at_once: int,
        workers: DistributedContext = ALONE,
        norm: Norm = "linf",
    ) -> Tensor:
        """Compute adversarial images.

        Args:
            logits_of: the classifier, in evaluation mode; maps images to logits (N, K).
            images: pixels in [0, 1], in the type and on the device of the classifier's weights; of shape (N, C, H, W),
                or (N, V, C, H, W) if each of V crops is attacked.
            labels: true classes (N), on the same device.
            epsilon: radius of the ball around each image.
            generator: generator of random numbers, on the CPU.
            at_once: number of images that the classifier may process at once.
            workers: workers that may share the images; all call this with the same arguments and a generator in the
                same state, and all return the same images.
            norm: norm of the ball, one of the config's `norms`; an attack that has only l∞ needs no such argument.

        Returns:
            Images of the same shape, within the ball and in [0, 1].

        Raises:
            AttackInvalid: on all workers, if the result cannot be trusted.
        """
        ...


class SharedAttack(Protocol):
    """An attack that can attack several heads of one encoder at once, which costs little more than attacking one."""

    def still_right(
        self,
        features_of: Callable[[Tensor], Tensor],
        heads: Sequence[nn.Linear],
        images: Tensor,
        labels: Tensor,
        right_NL: Tensor,
        *,
        epsilon: float,
        generator: torch.Generator,
        at_once: int,
        workers: DistributedContext = ALONE,
        norm: Norm = "linf",
    ) -> Tensor:
        """Find which heads still classify each image correctly.

        Args:
            features_of: maps pixels (N, C, H, W) to features (N, F).
            heads: linear heads, those with weaker L2 penalties first.
            images: as in `Attack`.
            labels: as in `Attack`.
            right_NL: which images each head classifies correctly; others are not attacked.
            epsilon: as in `Attack`.
            generator: as in `Attack`.
            at_once: as in `Attack`.
            workers: as in `Attack`.
            norm: as in `Attack`.

        Returns:
            right_NL, on the device of the images.
        """
        ...


def _cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NK, labels_N, reduction="none")


def _margin(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    true_N1 = labels_N[:, None]
    largest_wrong_N = logits_NK.scatter(-1, true_N1, -torch.inf).amax(-1)
    return largest_wrong_N - logits_NK.gather(-1, true_N1).squeeze(-1)


LOSSES = {"cross_entropy": _cross_entropy, "margin": _margin}
"""Loss of each image (N) from logits (N, K) and labels (N)."""


def pgd(
    logits_of: Logits,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    restarts: int = 1,
    start: Literal["uniform", "zero"] = "uniform",
    generator: torch.Generator | None = None,
    loss: Literal["cross_entropy", "margin"] = "margin",
    every_step: bool = False,
    at_once: int | None = None,
    shrink: bool | None = None,
    workers: DistributedContext = ALONE,
    norm: Norm = "linf",
) -> Tensor:
    """Adversarial images that maximise a loss in a ball (PGD, arXiv 1706.06083).

    An image that is broken is not changed any further; so the result does not depend on other images of a batch as
    long as the classifier treats each image independently.

    Args:
        logits_of: the classifier, in evaluation mode.
        images: pixels in [0, 1].
        labels: true classes.
        epsilon: radius of the ball.
        steps: number of ascent steps of each start, at least 1.
        step_size: size of each step, in the norm of the ball.
        restarts: number of starts; those after the first attack only images that are not yet broken.
        start: start of the ascent: uniform in the ball, or zero.
        generator: generator of the uniform starts, on the CPU.
        loss: the largest wrong logit minus the true one (arXiv 1608.04644); or the cross-entropy, whose gradient
            vanishes where the classifier is very confident.
        every_step: whether an image counts as broken if it is misclassified at any step, not only at the end of its
            start: a stronger attack that costs less.
        at_once: number of images of one pass through the classifier, which determines the memory; None for all.
            The starts are drawn for all images together, so up to rounding the result does not depend on it.
        shrink: whether images are removed from the batch as soon as a step has broken them, instead of at the end of
            the start; up to rounding the result is the same. None: only on CPUs. On a GPU the host would wait for the
            number of images in each step, and cuDNN would plan again for it.
        workers: workers that share the images of each start; all call this with the same arguments and a generator in
            the same state, and get the same result.
        norm: norm of the ball; in l2 each image, or each crop of it, has a ball of its own.

    Returns:
        Images of the same shape; for each one the first that is misclassified, or else the end of the last start.
    """
    adversarial = images.clone()
    open_indices = torch.arange(len(images), device=images.device)
    shrink = images.device.type == "cpu" if shrink is None else shrink
    for _ in range(restarts):
        delta = torch.zeros_like(images)
        if start == "uniform":
            delta = random_start(images, epsilon=epsilon, norm=norm, generator=generator)
        if len(open_indices) == 0:
            break
        parts = [
            _one_start(
                logits_of,
                images[indices],
                labels[indices],
                delta[indices],
                loss_of=LOSSES[loss],
                epsilon=epsilon,
                norm=norm,
                steps=steps,
                step_size=step_size,
                every_step=every_step,
                shrink=shrink,
            )
            for indices in workers.part(open_indices).split(at_once or len(images))
        ]
        ends, resists = (workers.gather(torch.cat(part), len(open_indices)) for part in zip(*parts, strict=True))
        adversarial[open_indices] = ends
        open_indices = open_indices[resists]
    return adversarial


def random_start(images: Tensor, *, epsilon: float, generator: torch.Generator | None, norm: Norm = "linf") -> Tensor:
    """A perturbation drawn uniformly from the ball around each image, and moved into [0, 1]."""
    if norm == "linf":
        noise = 2 * torch.rand(images.shape, generator=generator, dtype=images.dtype) - 1
    else:  # all directions are equally likely, and a radius as likely as its sphere is large
        direction = steepest(torch.randn(images.shape, generator=generator, dtype=images.dtype), norm)
        share = torch.rand(*images.shape[:-3], 1, 1, 1, generator=generator, dtype=images.dtype)
        noise = direction * share ** (1 / images.shape[CROP[0] :].numel())
    return project(noise.to(images.device) * epsilon, images, epsilon=epsilon, norm=norm)


def _one_start(
    logits_of: Logits,
    x: Tensor,
    y: Tensor,
    delta: Tensor,
    *,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    epsilon: float,
    norm: Norm,
    steps: int,
    step_size: float,
    every_step: bool,
    shrink: bool,
) -> tuple[Tensor, Tensor]:
    """Adversarial images of one start, and a mask of those that are still classified correctly."""
    adversarial, indices = x.clone(), torch.arange(len(x), device=x.device)
    resisting = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    resists = ~resisting
    for _ in range(steps):
        perturbed = (x + delta).requires_grad_()
        with torch.enable_grad():
            logits = logits_of(perturbed)
            (gradient,) = torch.autograd.grad(loss_of(logits, y).sum(), perturbed)
        if every_step:
            resists = resists & (logits.argmax(-1) == y)
            if shrink:
                adversarial[indices] = perturbed.detach()
                indices, x, y, delta, gradient, resists = (
                    each[resists] for each in (indices, x, y, delta, gradient, resists)
                )
                if len(indices) == 0:
                    return adversarial, resisting
        ascended = ascend(delta, gradient, x, step_size=step_size, epsilon=epsilon, norm=norm)
        delta = torch.where(resists.view(-1, *[1] * (x.dim() - 1)), ascended, delta)  # broken images do not change
    adversarial[indices] = x + delta
    with torch.no_grad():
        resisting[indices] = resists & (logits_of(x + delta).argmax(-1) == y)
    return adversarial, resisting


class Pgd:
    """Projected gradient descent with the settings of a config."""

    def __init__(self, config: PgdConfig) -> None:
        self.config = config

    def __call__(
        self,
        logits_of: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilon: float,
        generator: torch.Generator,
        at_once: int,
        workers: DistributedContext = ALONE,
        norm: Norm = "linf",
    ) -> Tensor:
        """See `pgd`."""
        return pgd(
            logits_of,
            images,
            labels,
            epsilon=epsilon,
            norm=norm,
            steps=self.config.steps,
            step_size=self.config.step_at(epsilon),
            restarts=self.config.restarts,
            start=self.config.start,
            generator=generator,
            loss=self.config.loss,
            every_step=self.config.every_step,
            at_once=at_once,
            workers=workers,
        )

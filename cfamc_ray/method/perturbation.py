"""One perturbation per crop, in a ball of radius epsilon and in the pixel box [0, 1].

Shapes: `delta`, `gradient` and `images` have the same: any in the l∞ norm, (…, C, H, W) in the l2 norm, in which each
crop (C, H, W) has a ball of its own. A radius is a number, or a tensor that broadcasts to them (0 for a view that is
not perturbed).
"""

import torch
from torch import Tensor

from cfamc_ray.config.types import Norm
from cfamc_ray.method.phases import phase

Radius = float | Tensor
CROP = (-3, -2, -1)
"""Axes of a crop."""


def project(delta: Tensor, images: Tensor, *, epsilon: Radius, norm: Norm = "linf") -> Tensor:
    """Move a perturbation into the ball of radius epsilon, and then images + delta into [0, 1].

    In l∞ the result is the nearest one in both. In l2 it need not be, but the second step never leaves the ball, for it
    shortens the perturbation.

    Args:
        delta: perturbation.
        images: pixels in [0, 1].
        epsilon: radius of the ball, at least 0.
        norm: norm of the ball.
    """
    return torch.minimum(torch.maximum(into_ball(delta, epsilon=epsilon, norm=norm), -images), 1 - images)


def into_ball(delta: Tensor, *, epsilon: Radius, norm: Norm = "linf") -> Tensor:
    """The nearest perturbation in the ball alone; arguments as in `project`."""
    if norm == "l2":
        return delta * (epsilon / size_of(delta, norm).clamp_min(_tiny(delta))).clamp_max(1)
    if isinstance(epsilon, Tensor):
        return torch.minimum(torch.maximum(delta, -epsilon), epsilon)
    return delta.clamp(-epsilon, epsilon)


@phase("perturbation")
def ascend(
    delta: Tensor, gradient: Tensor, images: Tensor, *, step_size: float, epsilon: Radius, norm: Norm = "linf"
) -> Tensor:
    """One step of steepest ascent of the loss, then `project` (free adversarial training, arXiv 1904.12843)."""
    return project(delta + step_size * steepest(gradient, norm), images, epsilon=epsilon, norm=norm)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The step of size 1 that increases the loss most, to first order: the gradient's sign in l∞, its direction in l2.

    Zero where the gradient is.
    """
    if norm == "linf":
        return gradient.sign()
    # The squares of tiny gradients, as those of the cross-entropy of a confident classifier, would be zero.
    scaled = gradient / gradient.abs().amax(CROP, keepdim=True).clamp_min(_tiny(gradient))
    return scaled / size_of(scaled, norm).clamp_min(_tiny(gradient))


def size_of(delta: Tensor, norm: Norm) -> Tensor:
    """What a radius limits: each entry's absolute value in l∞, each crop's length in l2, of shape (…, 1, 1, 1)."""
    return delta.abs() if norm == "linf" else torch.linalg.vector_norm(delta, dim=CROP, keepdim=True)


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny

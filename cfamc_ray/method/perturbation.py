"""One perturbation per crop, in the l∞ ball of radius epsilon and in the pixel box [0, 1].

Shapes: any; `delta`, `gradient` and `images` are alike.
"""

import torch
from torch import Tensor


def project(delta: Tensor, images: Tensor, *, epsilon: float) -> Tensor:
    """The nearest perturbation with no entry beyond epsilon and with images + delta in [0, 1].

    Args:
        delta: perturbation.
        images: pixels in [0, 1].
        epsilon: radius of the l∞ ball, at least 0.
    """
    return torch.minimum(torch.maximum(delta.clamp(-epsilon, epsilon), -images), 1 - images)


def ascend(delta: Tensor, gradient: Tensor, images: Tensor, *, step_size: float, epsilon: float) -> Tensor:
    """One step along the sign of the loss's gradient, then `project` (free adversarial training, arXiv 1904.12843)."""
    return project(delta + step_size * gradient.sign(), images, epsilon=epsilon)

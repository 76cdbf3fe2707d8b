"""One perturbation per crop, in the l∞ ball of radius epsilon and in the pixel box [0, 1].

Shapes: any; `delta`, `gradient` and `images` have the same. A radius is a number, or a tensor that broadcasts to them
(0 for a view that is not perturbed).
"""

import torch
from torch import Tensor

from cfamc_ray.method.phases import phase

Radius = float | Tensor


def project(delta: Tensor, images: Tensor, *, epsilon: Radius) -> Tensor:
    """Project a perturbation to the l∞ ball of radius epsilon and to images + delta in [0, 1].

    Args:
        delta: perturbation.
        images: pixels in [0, 1].
        epsilon: radius of the l∞ ball, at least 0.
    """
    if isinstance(epsilon, Tensor):
        inside = torch.minimum(torch.maximum(delta, -epsilon), epsilon)
    else:
        inside = delta.clamp(-epsilon, epsilon)
    return torch.minimum(torch.maximum(inside, -images), 1 - images)


@phase("perturbation")
def ascend(delta: Tensor, gradient: Tensor, images: Tensor, *, step_size: float, epsilon: Radius) -> Tensor:
    """One step along the sign of the loss's gradient, then `project` (free adversarial training, arXiv 1904.12843)."""
    return project(delta + step_size * gradient.sign(), images, epsilon=epsilon)

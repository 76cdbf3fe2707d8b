"""Weights between two encoders of one origin.

Encoders that share their first epochs are often joined by a line of weights along which the loss stays low
(arXiv 1912.05671), so encoders on it are points between the two, or beyond them (arXiv 2203.05482), without training.
The statistics of batch norm are no weights: those of the ends do not fit, and `estimating_norms` replaces them.
"""

import copy

import torch

from cfamc_ray.method.encoder import SelfSupervisedEncoder


def interpolate(first: SelfSupervisedEncoder, second: SelfSupervisedEncoder, share: float) -> SelfSupervisedEncoder:
    """A new encoder whose weights are (1 − share) times those of the first plus share times those of the second.

    Buffers of batch norm are the same mean.

    Args:
        first: encoder, which stays as it is.
        second: encoder of the same config.
        share: from 0 to 1.

    Raises:
        ValueError: if the encoders have other configs.
    """
    if first.config != second.config:
        raise ValueError("the encoders differ in more than their weights")
    between, theirs = copy.deepcopy(first), second.state_dict()
    with torch.no_grad():
        for name, tensor in between.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], share)
    return between

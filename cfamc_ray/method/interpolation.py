"""Weights between two encoders of one origin, and batch norm's statistics for them.

Encoders that share their first epochs are often joined by a line of weights along which the loss stays low
(arXiv 1912.05671), so encoders on it are points between the two, or beyond them (arXiv 2203.05482), without training.
The statistics of batch norm are no weights: those of the ends fit neither of their means.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from cfamc_ray.method.encoder import SelfSupervisedEncoder


def interpolate(first: SelfSupervisedEncoder, second: SelfSupervisedEncoder, share: float) -> SelfSupervisedEncoder:
    """A new encoder whose weights are (1 − share) times those of the first plus share times those of the second.

    Buffers of batch norm are the same mean; `estimate_norms` replaces them by statistics of its own features.

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


def estimate_norms(encoder: SelfSupervisedEncoder, minibatches: Iterable[Tensor]) -> None:
    """Replace the running statistics of batch norm by their means over minibatches; other norms have none.

    Args:
        encoder: its mode stays as it is.
        minibatches: crops (N, C, H, W) in [0, 1], each as many as a pass of training has.
    """
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta, was_training = [norm.momentum for norm in norms], encoder.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all minibatches count alike
    encoder.train()
    try:
        with torch.no_grad():
            for crops_NCHW in minibatches:
                encoder(crops_NCHW)
    finally:
        encoder.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

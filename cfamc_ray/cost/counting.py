"""FLOPs and stored activations of an encoder's passes, counted on torch's meta device."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method.encoder import SelfSupervisedEncoder


@lru_cache
def crop_pass_flops(config: EncoderConfig, size: int) -> tuple[int, int]:
    """FLOPs of one crop's forward and backward pass, with and without the weights' gradients.

    Args:
        config: config of the encoder.
        size: height and width of the crop in pixels.
    """
    encoder, crops_NCHW = _two_crops_on_meta(config, size)
    counts = []
    for weights in (True, False):
        encoder.requires_grad_(weights)
        with FlopCounterMode(display=False) as counter:
            encoder(crops_NCHW).sum().backward()
        counts.append(counter.get_total_flops() // 2)
    return counts[0], counts[1]


@lru_cache
def forward_flops(config: EncoderConfig, size: int) -> int:
    """FLOPs of one crop's forward pass; arguments as in `crop_pass_flops`."""
    encoder, crops_NCHW = _two_crops_on_meta(config, size)
    with FlopCounterMode(display=False) as counter:
        encoder(crops_NCHW)
    return int(counter.get_total_flops()) // 2


@lru_cache
def kept_numbers(config: EncoderConfig, size: int) -> tuple[int, int]:
    """Count numbers that a crop's forward pass stores for its backward pass, and the encoder's parameters.

    Arguments as in `crop_pass_flops`.
    """
    encoder, two_NCHW = _two_crops_on_meta(config, size)
    return _kept_of_one(encoder, two_NCHW), sum(weights.numel() for weights in encoder.parameters())


class PixelGradient(NamedTuple):
    """Cost of an image's forward pass and of the gradient of its pixels, with a frozen encoder."""

    forward_flops: int
    flops: int
    """FLOPs of the forward and backward pass."""
    kept: int
    """Count of numbers that the forward pass stores for the backward pass."""
    features: int
    """Number of features."""


@lru_cache
def pixel_gradient(config: EncoderConfig, side: int, features: str = "prefeature") -> PixelGradient:
    """Count the cost of an image in an evaluation.

    Args:
        config: config of the encoder.
        side: height and width of the image in pixels.
        features: features that the head reads, ``prefeature`` or ``backbone``.
    """
    encoder, two_NCHW = _two_crops_on_meta(config, side)
    encoder.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        features_2F = encoder.features(two_NCHW, kind=features)
        forward = counter.get_total_flops() // 2
        features_2F.sum().backward()
    kept = _kept_of_one(partial(encoder.features, kind=features), two_NCHW)
    return PixelGradient(forward, counter.get_total_flops() // 2, kept, features_2F.shape[-1])


def _kept_of_one(forward: Callable[[torch.Tensor], torch.Tensor], two_NCHW: torch.Tensor) -> int:
    """Count of numbers that a forward pass stores for each of its images."""
    kept = []
    for images_NCHW in (two_NCHW, two_NCHW.repeat(2, 1, 1, 1)):
        sizes: list[int] = []
        with saved_tensors_hooks(partial(_note_size, sizes), lambda tensor: tensor):
            forward(images_NCHW)
        kept.append(sum(sizes))
    return (kept[1] - kept[0]) // 2  # the part that does not grow with the images is weights


def _note_size(sizes: list[int], tensor: torch.Tensor) -> torch.Tensor:
    sizes.append(tensor.numel())
    return tensor


def _two_crops_on_meta(config: EncoderConfig, size: int) -> tuple[SelfSupervisedEncoder, torch.Tensor]:
    with torch.device("meta"):
        return SelfSupervisedEncoder(config), torch.empty(2, 3, size, size, requires_grad=True)  # batch norm needs two

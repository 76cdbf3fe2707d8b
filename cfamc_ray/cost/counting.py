"""FLOPs and kept numbers of an encoder's passes, counted on torch's meta device."""

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
        config: of the encoder.
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
    """FLOPs of one crop's forward pass; the arguments are those of `crop_pass_flops`."""
    encoder, crops_NCHW = _two_crops_on_meta(config, size)
    with FlopCounterMode(display=False) as counter:
        encoder(crops_NCHW)
    return int(counter.get_total_flops()) // 2


@lru_cache
def kept_numbers(config: EncoderConfig, size: int) -> tuple[int, int]:
    """Numbers that a crop's forward pass keeps for its backward pass, and the encoder's parameters.

    The arguments are those of `crop_pass_flops`.
    """
    encoder, two_NCHW = _two_crops_on_meta(config, size)
    return _kept_of_one(encoder, two_NCHW), sum(weights.numel() for weights in encoder.parameters())


class PixelGradient(NamedTuple):
    """What an image costs on its way to its features and back to its pixels, the encoder being frozen."""

    forward_flops: int
    flops: int
    """Forward and back."""
    kept: int
    """Numbers that the way forward keeps for the way back."""
    features: int
    """How many there are."""


@lru_cache
def pixel_gradient(config: EncoderConfig, side: int, features: str = "prefeature") -> PixelGradient:
    """Count an image's cost in an evaluation.

    Args:
        config: of the encoder.
        side: height and width of the image in pixels.
        features: which the head reads.
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
    """Numbers that a forward pass keeps for each of its images."""
    kept = []
    for images_NCHW in (two_NCHW, two_NCHW.repeat(2, 1, 1, 1)):
        sizes: list[int] = []
        with saved_tensors_hooks(partial(_note_size, sizes), lambda tensor: tensor):
            forward(images_NCHW)
        kept.append(sum(sizes))
    return (kept[1] - kept[0]) // 2  # what does not grow with the images is weights


def _note_size(sizes: list[int], tensor: torch.Tensor) -> torch.Tensor:
    sizes.append(tensor.numel())
    return tensor


def _two_crops_on_meta(config: EncoderConfig, size: int) -> tuple[SelfSupervisedEncoder, torch.Tensor]:
    with torch.device("meta"):
        return SelfSupervisedEncoder(config), torch.empty(2, 3, size, size, requires_grad=True)  # batch norm needs two

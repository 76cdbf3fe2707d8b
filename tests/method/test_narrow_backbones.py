"""Gradients of backbones of every width in float32 agree with float64: oneDNN's are wrong for some narrow ones.

Run as a program, this file prints the networks that it compares, one a line, and the largest error of each.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method.backbones import Backbone, build_backbone

LARGEST_ERROR = 1e-3
"""Of a gradient, relative to its norm; rounding gives less than 1e-4, the wrong weight gradients 0.5 and more."""
Network = tuple[str, str, str, int, int]
"""Architecture, stem, norm, width, and height of the images."""


def networks() -> Iterator[Network]:
    """Every width up to the paper's, and the narrow ones in all variants."""
    for width in range(4, 68, 4):
        yield "resnet18", "small", "batch", width, 32
    for width in (4, 8, 12, 16):
        yield "resnet18", "small", "group", width, 64
        yield "resnet18", "large", "batch", width, 64
        yield "resnet50", "small", "batch", width, 32
        yield "resnet50", "large", "group", width, 64
        yield "vit", "small", "batch", width, 32


def gradients(backbone: Backbone, images_NCHW: Tensor, weights_NF: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of the features, with respect to pixels and parameters."""
    pixels_NCHW = images_NCHW.detach().to(memory_format=torch.channels_last).requires_grad_()
    # Rounding flips a ReLU near 0 and a maximum of equals, which changes gradients by 2 %: here both are smooth.
    with (
        patch.object(F, "relu", lambda x, inplace: F.softplus(x)),
        patch.object(F, "max_pool2d", lambda x, *window, **_: F.avg_pool2d(x, *window[:3])),
    ):
        (backbone(pixels_NCHW) * weights_NF).sum().backward()
    found = {"pixels": pixels_NCHW.grad, **{name: each.grad for name, each in backbone.named_parameters()}}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def largest_error(network: Network, *threads: int) -> float:
    """Relative, over all gradients and numbers of threads; infinite where a gradient is missing or not finite."""
    architecture, stem, norm, width, side = network
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {"architecture": architecture, "stem": stem, "norm": norm, "width": width}
        backbone = build_backbone(EncoderConfig.model_validate(config))
        images_NCHW, weights_NF = torch.rand(3, 3, side, side), torch.randn(3, backbone.width)
    exact = gradients(deepcopy(backbone).double(), images_NCHW.double(), weights_NF.double())
    backbone = backbone.to(memory_format=torch.channels_last)
    errors: list[float] = []
    for number in threads:
        torch.set_num_threads(number)
        found = gradients(deepcopy(backbone), images_NCHW, weights_NF)
        if found.keys() != exact.keys() or not all(gradient.isfinite().all() for gradient in found.values()):
            return float("inf")
        errors += [float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact]
    return max(errors)


@pytest.mark.parametrize("width", range(4, 68, 4))
def test_gradients_of_every_width_agree_with_float64(width: int) -> None:
    assert largest_error(("resnet18", "small", "batch", width, 16), 1) < LARGEST_ERROR


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX2"])
def test_gradients_of_all_backbones_agree_with_float64_with_these_instructions(instructions: str) -> None:
    """AVX2 is what processors without AVX-512 have. In another process, since one with wrong sums may crash or hang."""
    program = [sys.executable, "-u", __file__]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_WAIT_POLICY": "passive"}
    try:
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"the process hung after {(hung.output or b'').decode().splitlines()[-1:]}")
    printed = done.stdout.splitlines()
    assert done.returncode == 0, f"the process died ({done.returncode}) in {printed[-1:]}: {done.stderr[-500:]}"
    assert len(printed) == len(list(networks()))
    assert not [line for line in printed if not float(line.split()[-1]) < LARGEST_ERROR]


if __name__ == "__main__":
    for each in networks():
        print(*each, end=" ")
        print(largest_error(each, 1, 2))

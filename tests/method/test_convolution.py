import copy
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cfamc_ray.method import convolution
from cfamc_ray.method.convolution import CHANNEL_BLOCK, FEW_POSITIONS, MANY_WEIGHTS, Convolution, split_convolution

# inputs, outputs, side of the kernel, stride, height, width: whether the weight gradient is a matrix product
SHAPES = {
    (8, 12, 3, 1, 4, 4): True,
    (8, 12, 3, 2, 8, 8): True,
    (8, 12, 3, 2, 7, 5): True,
    (8, 12, 1, 2, 8, 8): True,
    (8, 12, 1, 1, 3, 5): True,
    (8, 12, 3, 1, 8, 8): False,
    (8, 12, 3, 2, 9, 8): False,
    (384, 512, 3, 2, 3, 4): True,  # so many weights that the forward pass is one, too
}


def inputs(count: int, channels: int, height: int, width: int) -> Tensor:
    x_NCHW = torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))
    return x_NCHW.bfloat16().to(memory_format=torch.channels_last)


def pass_through(layer: nn.Module, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the gradients of input and weight under weights of the output that are all different."""
    x_NCHW = x_NCHW.detach().requires_grad_()
    y = layer(x_NCHW)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    assert x_NCHW.grad is not None
    assert weight.grad is not None
    return y.detach(), x_NCHW.grad, weight.grad


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_library_in_float64(shape: tuple[int, int, int, int, int, int]) -> None:
    inputs_, outputs, side, stride, height, width = shape
    assert (inputs_ == 384) == (inputs_ * outputs * side * side >= MANY_WEIGHTS)
    layer = Convolution(inputs_, outputs, side, stride)
    layer.weight.data = layer.weight.data.bfloat16()
    exact = nn.Conv2d(inputs_, outputs, side, stride, side // 2, bias=False).double()
    exact.weight.data = layer.weight.data.double()
    x_NCHW = inputs(6, inputs_, height, width)
    with patch.object(convolution, "_patches", wraps=convolution._patches) as product:
        found = pass_through(layer, x_NCHW)
    assert bool(product.call_count) == SHAPES[shape]
    for ours, true in zip(found, pass_through(exact, x_NCHW.double()), strict=True):
        assert ours.shape == true.shape
        assert ((ours.double() - true).norm() / true.norm()).item() < 2**-7


def test_under_autocast_float32_goes_in_and_the_weights_gradient_comes_out_in_float32() -> None:
    layer, x_NCHW = Convolution(8, 12, 3), inputs(6, 8, 4, 4).float()
    plain = nn.Conv2d(8, 12, 3, padding=1, bias=False)
    plain.weight = copy.deepcopy(layer.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y, *gradients), (y_plain, *gradients_plain) = (pass_through(each, x_NCHW) for each in (layer, plain))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, y_plain)
    for ours, theirs in zip(gradients, gradients_plain, strict=True):
        assert ours.dtype == torch.float32
        # Without AVX-512 the library rounds the sum after every image.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2**-6 * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_left_to_the_library(dtype: torch.dtype) -> None:
    layer, x_NCHW = Convolution(8, 12, 3).to(dtype), inputs(6, 8, 4, 4).to(dtype)
    assert FEW_POSITIONS >= 4 * 4
    with patch.object(convolution, "_patches", side_effect=AssertionError):
        y, *_ = pass_through(layer, x_NCHW)
    assert torch.equal(y, F.conv2d(x_NCHW, layer.weight, padding=1))


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    layer = Convolution(8, 12, 3).bfloat16()
    x_NCHW = inputs(6, 8, 4, 4)
    layer(x_NCHW).sum().backward()
    assert x_NCHW.grad is None
    assert layer.weight.grad is not None


@pytest.mark.parametrize("channels", [4, 7, 8, 12, 15, 16, 24])
@pytest.mark.parametrize("side", [1, 2, 16, 33, 64])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_strided_1x1_convolution_is_that_of_float64(
    channels: int, side: int, memory_format: torch.memory_format
) -> None:
    layer = Convolution(channels, 2 * channels, 1, 2).to(memory_format=memory_format)
    exact = nn.Conv2d(channels, 2 * channels, 1, 2, bias=False).double()
    exact.weight.data = layer.weight.data.double()
    x_NCHW = inputs(2, channels, side, side).float().contiguous(memory_format=memory_format)
    for ours, true in zip(pass_through(layer, x_NCHW), pass_through(exact, x_NCHW.double()), strict=True):
        assert ours.shape == true.shape
        assert ours.is_contiguous(memory_format=memory_format)
        assert ((ours.double() - true).norm() / true.norm()).item() < 1e-5


class Strides(TorchDispatchMode):
    """Collects the strides of all convolutions and their gradients."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in {torch.ops.aten.convolution, torch.ops.aten.convolution_backward}:
            self.found.append(next(each[0] for each in args if isinstance(each, list) and len(each) == 2))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("channels", "side", "stride"), [(4, 1, 1), (15, 1, 1), (16, 1, 2), (64, 1, 2), (4, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("height", [8, 32])
def test_the_library_strides_1x1_convolutions_of_enough_channels_alone(
    channels: int, side: int, stride: int, dtype: torch.dtype, height: int
) -> None:
    assert (stride == 1) == (side == 1 and channels < CHANNEL_BLOCK)
    layer = Convolution(channels, 8, side, 2)
    with Strides() as strides, torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        pass_through(layer, inputs(2, channels, height, height).float())
    assert strides.found == [stride, stride]


class FirstChannels(nn.Conv2d):
    """Adds up what it is handed in three channels' places: the parts of a split input, unrounded by any weight."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """In float64, so that nothing is rounded but the parts."""
        return F.conv2d(x_NCHW.double(), self.weight.double())


def test_a_split_input_keeps_a_perturbation_of_one_grey_level_to_2_to_the_minus_14() -> None:
    layer = FirstChannels(3, 3, 1, bias=False)
    layer.weight.data = torch.eye(3)[:, :, None, None]
    x_NCHW = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 254 / 255
    clean, moved = (split_convolution(layer, pixels, torch.bfloat16) for pixels in (x_NCHW, x_NCHW + 1 / 255))
    assert (moved - clean - 1 / 255).abs().max() < 2**-14
    assert (clean - x_NCHW).abs().max() <= 2**-17
    rounded = (x_NCHW + 1 / 255).bfloat16().double() - x_NCHW.bfloat16().double()
    assert (rounded - 1 / 255).abs().max() > 2**-10  # what bfloat16 alone leaves of it


@pytest.mark.parametrize(("side", "stride", "bias"), [(3, 1, False), (7, 2, False), (4, 4, True)])
def test_a_split_convolution_and_its_gradients_are_those_of_rounded_weights(side: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, side, stride, side // 2 if side % 2 else 0, bias=bias)
    exact = copy.deepcopy(layer).double()
    exact.weight.data = layer.weight.data.bfloat16().double()
    if layer.bias is not None:
        exact.bias = nn.Parameter(layer.bias.bfloat16().double())
    x_NCHW = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
    split = nn.Module()
    split.forward = lambda x: split_convolution(layer, x, torch.bfloat16).double()
    split.weight = layer.weight
    for ours, theirs in zip(pass_through(split, x_NCHW), pass_through(exact, x_NCHW.double()), strict=True):
        assert (ours - theirs).norm() < 2**-7 * theirs.norm()
    assert layer.weight.shape == (8, 3, side, side)

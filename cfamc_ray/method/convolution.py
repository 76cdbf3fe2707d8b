"""Convolutions that avoid oneDNN's weight gradient on CPUs where it is slow or wrong, and one for pixels on GPUs.

Slow: the bfloat16 weight gradient of a convolution with a small output runs at a tenth of the rate of a matrix product;
a ResNet-18 on images of 32 pixels spends a quarter of its time there. Here it is computed as one matrix product.

Wrong: the weight gradient of a strided 1x1 convolution of few channels in channels_last. oneDNN (3.13 and before) first
copies the pixels that the stride selects and writes past the end of that buffer: gradients are wrong, or the process
crashes or hangs. Here the pixels are selected first, followed by a convolution of stride 1.

Shapes: N images, C inputs, O outputs, H/W height/width, h/w of the output, k side of the kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEW_POSITIONS = 16
"""Largest number of output positions that benefit, at any width (1.5 to 4 times as fast, on one thread and two)."""
MANY_WEIGHTS = 2**20
"""Number of weights from which the product is faster in the forward pass too (twice as fast)."""
CHANNEL_BLOCK = 16
"""Channels that oneDNN processes at once with AVX-512 (AVX2: 8); its buffer is too small for fewer input channels."""


CHANNELS_OF_A_KERNEL = 8
"""cuDNN's fastest kernels for 16-bit types need a multiple of this number of channels."""


class Convolution(nn.Conv2d):
    """A square convolution without bias, padded by half its side, with the values of `nn.Conv2d`.

    Args:
        inputs: number of input channels (C).
        outputs: number of output channels (O).
        side: side of the kernel, an odd number of pixels.
        stride: stride in both directions.
    """

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride, side // 2, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve the input."""
        if x_NCHW.device.type != "cpu":
            return super().forward(x_NCHW)
        stride = self.stride[0]
        if self.kernel_size == (1, 1) and stride > 1 and self.in_channels < CHANNEL_BLOCK:
            # Every stride-th pixel; unlike slicing, the gradient keeps channels_last.
            x_NCHW, stride = F.avg_pool2d(x_NCHW, 1, stride), 1
        computes_in = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NCHW.dtype
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        h, w = _output_size(x_NCHW, stride)
        if learns and computes_in == torch.bfloat16 and h * w <= FEW_POSITIONS:
            product: Tensor = _MatrixProduct.apply(x_NCHW.to(computes_in), self.weight.to(computes_in), stride)
            return product
        return F.conv2d(x_NCHW, self.weight, stride=stride, padding=self.kernel_size[0] // 2)


def split_convolution(convolution: nn.Conv2d, x_NCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """A convolution in a 16-bit type that uses twice as many bits of its input.

    The input is split into its value rounded to the type and the remainder, which are separate channels with the same
    weights; sums are computed in float32. With bfloat16 the error of a pixel is at most 2^-17, not 2^-9.

    Args:
        convolution: convolution of few channels; its weights are rounded to the type.
        x_NCHW: input in [0, 1], in channels_last.
        dtype: the 16-bit type, also of the result.
    """
    high_NCHW = x_NCHW.to(dtype)
    low_NCHW = (x_NCHW.detach() - high_NCHW.detach()).to(dtype)  # the gradient flows through the other part
    padding = -2 * x_NCHW.shape[1] % CHANNELS_OF_A_KERNEL
    parts_NCHW = F.pad(torch.cat([high_NCHW, low_NCHW], 1), (0, 0, 0, 0, 0, padding))
    weight_OCkk = convolution.weight.to(dtype)
    weight_OCkk = F.pad(torch.cat([weight_OCkk, weight_OCkk], 1), (0, 0, 0, 0, 0, padding))
    parts_NCHW, weight_OCkk = (each.contiguous(memory_format=torch.channels_last) for each in (parts_NCHW, weight_OCkk))
    parameters = {"weight": weight_OCkk} | ({} if convolution.bias is None else {"bias": convolution.bias.to(dtype)})
    split: Tensor = torch.func.functional_call(convolution, parameters, (parts_NCHW,))
    return split


class _MatrixProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_OCkk: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight_OCkk)
        ctx.stride, k = stride, weight_OCkk.shape[-1]
        if weight_OCkk.numel() < MANY_WEIGHTS:
            return F.conv2d(x_NCHW, weight_OCkk, stride=stride, padding=k // 2)
        y_XO = _patches(x_NCHW, k, stride) @ weight_OCkk.permute(0, 2, 3, 1).flatten(1).T
        y_NhwO: Tensor = y_XO.view(len(x_NCHW), *_output_size(x_NCHW, stride), -1)
        return y_NhwO.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (gradient_NOhw,), (x_NCHW, weight_OCkk) = gradients, ctx.saved_tensors
        O, C, k, _ = weight_OCkk.shape  # noqa: E741 (an axis)
        of_input_NCHW = torch.ops.aten.convolution_backward(
            gradient_NOhw,
            x_NCHW,
            weight_OCkk,
            bias_sizes=None,
            stride=(ctx.stride, ctx.stride),
            padding=(k // 2, k // 2),
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=1,
            output_mask=(ctx.needs_input_grad[0], False, False),
        )[0]
        gradient_XO = gradient_NOhw.permute(0, 2, 3, 1).flatten(0, 2)
        of_weight_OkkC = (gradient_XO.T @ _patches(x_NCHW, k, ctx.stride)).view(O, k, k, C)
        return of_input_NCHW, of_weight_OkkC.permute(0, 3, 1, 2), None


def _output_size(x_NCHW: Tensor, stride: int) -> tuple[int, int]:
    H, W = x_NCHW.shape[-2:]
    return (H - 1) // stride + 1, (W - 1) // stride + 1


def _patches(x_NCHW: Tensor, k: int, stride: int) -> Tensor:
    """The input patch of each output: (N h w, k k C), with zeros beyond the border."""
    x_NHWC = F.pad(x_NCHW, [k // 2] * 4).permute(0, 2, 3, 1)
    patches_NhwCkk = x_NHWC.unfold(1, k, stride).unfold(2, k, stride)
    return patches_NhwCkk.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)

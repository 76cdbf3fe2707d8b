"""ResNets (arXiv 1512.03385) and a vision transformer (arXiv 2010.11929) without classifiers, each with two stems.

Shapes: N images, C/H/W channels/height/width, F features, T tokens of width D, A heads of width E, K frequencies.
"""

import os
import shutil
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.encoder import BackboneConfig, EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.method.convolution import Convolution

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
GROUP_CHANNELS = 4
"""Channels that share a group norm; every width is a multiple of it."""
HEADS, DEPTH = 3, 12
"""Of a ViT: heads of its attention, and blocks."""

Norm = Callable[[int], nn.Module]


def build_backbone(config: EncoderConfig) -> "Backbone":
    """What a config's architecture, stem, width and norm say."""
    backbone: Backbone = config.architecture.build(config)
    return backbone


def build_resnet(config: BackboneConfig, encoder: EncoderConfig) -> "ResNet":
    """A ResNet with the encoder's width, norm and stem; what `config` builds."""
    norm = BatchNorm if encoder.norm == "batch" else _group_norm
    return ResNet(config.name, encoder.width, norm, stem=encoder.stem)


def build_vit(config: BackboneConfig, encoder: EncoderConfig) -> "VisionTransformer":
    """A vision transformer with the encoder's width and stem; what `config` builds."""
    return VisionTransformer(HEADS * encoder.width, config.patch(encoder.stem))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that `norm_relu` may compute together with the operations after it.

    Attributes:
        fused: `fused_norm.batch_norm_relu`, or None to compute one after the other.
    """

    fused: Callable[..., Tensor] | None = None


def norm_relu(norm: nn.Module, x_NCHW: Tensor, residual_NCHW: Tensor | None = None) -> Tensor:
    """``relu(norm(x) + residual)``; on a GPU, in training and in bfloat16, by fused kernels where the norm has them."""
    if isinstance(norm, BatchNorm) and norm.fused and norm.training and _fits(norm, x_NCHW, residual_NCHW):
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        affine = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return norm.fused(x_NCHW, residual_NCHW, *affine, momentum=norm.momentum, eps=norm.eps)
    y_NCHW = norm(x_NCHW)
    return F.relu(y_NCHW if residual_NCHW is None else y_NCHW + residual_NCHW, inplace=True)


def _fits(norm: BatchNorm, *inputs: Tensor | None) -> bool:
    """Whether the kernels are written for these; of a single position, torch says what is wrong."""
    return norm.weight.dtype == torch.float32 and all(
        x_NCHW.is_cuda
        and x_NCHW.dtype == torch.bfloat16
        and x_NCHW.is_contiguous(memory_format=torch.channels_last)
        and x_NCHW.numel() > x_NCHW.shape[1]
        for x_NCHW in inputs
        if x_NCHW is not None
    )


def use_fused_norm(network: nn.Module, on: bool) -> None:
    """Switch the fused kernels of a network's batch norms on or off; weights and their names stay as they are.

    Raises:
        InputError: where they are switched on and this machine cannot run them (`missing_for_triton`).
    """
    fused: Callable[..., Tensor] | None = None
    if on:
        if missing := missing_for_triton():
            raise InputError(f"pretraining.fused_norm: true needs {missing}; auto and false do without")
        from cfamc_ray.method.fused_norm import batch_norm_relu  # noqa: PLC0415 (Triton may be absent)

        fused = batch_norm_relu
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.fused = fused


def missing_for_triton() -> str | None:
    """What this machine lacks, beside a GPU, to run Triton's kernels, whose launchers are compiled at their first call.

    Returns:
        its name, as part of a sentence; None where all is there.
    """
    if find_spec("triton") is None:
        return "the package triton, which torch brings along on Linux"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler for Triton (gcc or clang in PATH, or CC)"
    headers = Path(sysconfig.get_path("include"))
    return None if (headers / "Python.h").exists() else f"Python's headers for Triton ({headers}/Python.h)"


class Backbone(nn.Module, ABC):
    """A stem, which is one convolution and sees the pixels as they are, and what may compute in a lower precision.

    Attributes:
        stem: the convolution.
        width: how many features there are (F).
    """

    stem: nn.Conv2d
    width: int

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to features_NF."""
        return self.after_stem(self.stem(images_NCHW))

    @abstractmethod
    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """The stem's output to features_NF."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (arXiv 1512.03385, figure 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Convolution(inputs, width, 3, stride),
            norm(width),
            nn.ReLU(inplace=True),
            Convolution(width, width, 3),
            norm(width),
        )
        self.shortcut = _shortcut(inputs, width, stride, norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the residual."""
        first, norm, _, second, last_norm = self.residual
        y_NCHW = second(norm_relu(norm, first(x_NCHW)))
        return norm_relu(last_norm, y_NCHW, self.shortcut(x_NCHW))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (arXiv 1512.03385, figure 5 right), striding in the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.residual = nn.Sequential(
            Convolution(inputs, width, 1),
            norm(width),
            nn.ReLU(inplace=True),
            Convolution(width, width, 3, stride),
            norm(width),
            nn.ReLU(inplace=True),
            Convolution(width, outputs, 1),
            norm(outputs),
        )
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the residual."""
        first, norm, _, second, second_norm, _, third, last_norm = self.residual
        y_NCHW = second(norm_relu(norm, first(x_NCHW)))
        y_NCHW = third(norm_relu(second_norm, y_NCHW))
        return norm_relu(last_norm, y_NCHW, self.shortcut(x_NCHW))


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(Convolution(inputs, outputs, 1, stride), norm(outputs))


class ResNet(Backbone):
    """Four stages of doubling width, averaged over the image.

    Args:
        architecture: a key of `BLOCKS`.
        width: channels of the first stage.
        norm: builds the norm of so many channels.
        stem: ``small``: 3x3 of stride 1; ``large``, torchvision's: 7x7 of stride 2 and max-pooling.
    """

    def __init__(self, architecture: str, width: int, norm: Norm, *, stem: str = "small") -> None:
        super().__init__()
        block = BasicBlock if architecture == "resnet18" else Bottleneck
        large = stem == "large"
        self.stem = nn.Conv2d(3, width, 7, 2, 3, bias=False) if large else nn.Conv2d(3, width, 3, 1, 1, bias=False)
        stages: list[nn.Module] = [norm(width), nn.ReLU(inplace=True)]
        if large:
            stages.append(nn.MaxPool2d(3, 2, 1))
        channels = width
        for stage, blocks in enumerate(BLOCKS[architecture]):
            for place in range(blocks):
                stride = 2 if stage > 0 and place == 0 else 1
                stages.append(block(channels, width << stage, stride, norm))
                channels = (width << stage) * block.expansion
        self.stages = nn.Sequential(*stages)
        self.width = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in torchvision; LARS turns a weight's norm into its pace
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """The stages and the mean over the image."""
        norm, _, *stages = self.stages
        x_NCHW = norm_relu(norm, x_NCHW)
        for stage in stages:
            x_NCHW = stage(x_NCHW)
        return x_NCHW.mean((-2, -1))


class Patches(nn.Conv2d):
    """One linear map of every patch; a convolution would silently leave out the pixels that fill none."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__(3, width, side, stride=side)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Pixels to the D channels of a grid of patches.

        Raises:
            InputError: where the patches do not tile the image.
        """
        (H, W), side = images_NCHW.shape[-2:], self.stride[0]
        if H % side or W % side:
            raise InputError(
                f"images of {H}x{W} pixels do not divide into the patches of a ViT, {side}x{side}: "
                f"height and width must be multiples of {side} (crops.size, data.image_size)"
            )
        return super().forward(images_NCHW)


class SelfAttention(nn.Module):
    """Every token attends to all tokens of its image (arXiv 1706.03762, equation 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """What the heads read, mixed."""
        q_NATE, k_NATE, v_NATE = self.queries_keys_values(x_NTD).unflatten(-1, (3, HEADS, -1)).transpose(1, 3).unbind(2)
        read_NATE = F.scaled_dot_product_attention(q_NATE, k_NATE, v_NATE)
        return self.outputs(read_NATE.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and a perceptron of fourfold width, each behind a norm and beside a shortcut (pre-norm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(_token_norm(width), SelfAttention(width))
        self.perceptron = nn.Sequential(
            _token_norm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Add both residuals."""
        x_NTD = x_NTD + self.attention(x_NTD)
        return x_NTD + self.perceptron(x_NTD)  # type: ignore[no-any-return]


def _token_norm(width: int) -> nn.Module:
    return nn.LayerNorm(width, eps=1e-6)  # as in ViT's own code


class VisionTransformer(Backbone):
    """`DEPTH` blocks on the patches of an image of any size that they tile; features are the mean of the tokens.

    Args:
        width: of a token (D), a multiple of 4 and of `HEADS`.
        patch: its side in pixels.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.width = width
        self.stem = Patches(width, patch)
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(DEPTH)), _token_norm(width))
        for name, parameter in self.named_parameters():  # as in MAE (arXiv 2111.06377), at every width
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter.flatten(1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """The blocks and the mean over the tokens."""
        x_NTD = x_NCHW.flatten(2).transpose(1, 2) + position_embeddings(x_NCHW)
        return self.blocks(x_NTD).mean(1)  # type: ignore[no-any-return]


def position_embeddings(x_NCHW: Tensor) -> Tensor:
    """Sines and cosines of row and column at K = C/4 frequencies, p_TD (as in MoCo v3, arXiv 2104.02057)."""
    _, C, H, W = x_NCHW.shape
    rows_H, columns_W, k_K = (torch.arange(n, dtype=x_NCHW.dtype, device=x_NCHW.device) for n in (H, W, C // 4))
    phases_T2K = torch.cartesian_prod(rows_H, columns_W)[..., None] * 10_000 ** (-k_K / len(k_K))
    return torch.cat([phases_T2K.sin(), phases_T2K.cos()], -1).flatten(1)

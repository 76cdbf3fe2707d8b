"""A ResNet with the stem for small images, the pre-feature that probes read, and the projector that the loss sees.

Shapes: N images or crops, C/H/W channels/height/width, F features, D embedding width.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import EncoderConfig

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
GROUP_CHANNELS = 4
"""Channels that share a group norm; every width is a multiple of it."""

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (arXiv 1512.03385, figure 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            norm(width),
        )
        self.shortcut = _shortcut(inputs, width, stride, norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the residual."""
        return F.relu(self.residual(x_NCHW) + self.shortcut(x_NCHW), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (arXiv 1512.03385, figure 5 right), striding in the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            norm(outputs),
        )
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the residual."""
        return F.relu(self.residual(x_NCHW) + self.shortcut(x_NCHW), inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


class ResNet(nn.Module):
    """Four stages of doubling width after a 3x3 stem of stride 1, averaged over the image; no classifier."""

    def __init__(self, architecture: str, width: int, norm: Norm) -> None:
        super().__init__()
        block = BasicBlock if architecture == "resnet18" else Bottleneck
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        stages: list[nn.Module] = [norm(width), nn.ReLU(inplace=True)]
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

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to features_NF."""
        return self.after_stem(self.stem(images_NCHW))

    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """The stages and the mean over the image."""
        return self.stages(x_NCHW).mean((-2, -1))  # type: ignore[no-any-return]


class SelfSupervisedEncoder(nn.Module):
    """Backbone, pre-feature and projector; what it returns are rows of unit length.

    Args:
        config: architecture, widths and norm.
        autocast: type of the matrix products after the stem; None for the type of the weights.
    """

    def __init__(self, config: EncoderConfig, *, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        conv_norm, row_norm = _norms(config.norm)
        self.autocast = autocast
        self.backbone = ResNet(config.architecture, config.width, conv_norm)
        self.prefeature = nn.Sequential(
            nn.Linear(self.backbone.width, config.prefeature_width),
            row_norm(config.prefeature_width),
            nn.ReLU(inplace=True),
        )
        self.projector = nn.Sequential(
            nn.Linear(config.prefeature_width, config.hidden_width),
            row_norm(config.hidden_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_width, config.embedding_width),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to z_ND, unit rows in float32 at least."""
        # The stem sees its input as it is: bfloat16 has a step of 1/256 near 1, in which a small perturbation vanishes.
        x_NCHW = self.backbone.stem(images_NCHW.contiguous(memory_format=torch.channels_last))
        with torch.autocast(x_NCHW.device.type, dtype=self.autocast) if self.autocast else nullcontext():
            z_ND = self.projector(self.prefeature(self.backbone.after_stem(x_NCHW)))
        return F.normalize(z_ND.to(images_NCHW.dtype), dim=-1)

    def features(self, images_NCHW: Tensor, *, kind: str = "prefeature") -> Tensor:
        """What a probe reads, without autocast.

        Args:
            images_NCHW: pixels in [0, 1].
            kind: ``prefeature`` or ``backbone``.
        """
        backbone_NF = self.backbone(images_NCHW.contiguous(memory_format=torch.channels_last))
        return backbone_NF if kind == "backbone" else self.prefeature(backbone_NF)  # type: ignore[no-any-return]


def _norms(kind: str) -> tuple[Norm, Norm]:
    """Norm of convolutions and norm of rows."""
    if kind == "batch":
        return nn.BatchNorm2d, nn.BatchNorm1d
    return lambda channels: nn.GroupNorm(channels // GROUP_CHANNELS, channels), nn.LayerNorm


def save_encoder(path: Path, encoder: SelfSupervisedEncoder, config: EncoderConfig) -> None:
    """Write weights and config as one safetensors file; a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, partial, metadata={"encoder": config.model_dump_json()})
    partial.replace(path)


def load_encoder(path: Path) -> SelfSupervisedEncoder:
    """Read what `save_encoder` wrote, on the CPU and in evaluation mode.

    Raises:
        InputError: where the file is missing or is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = EncoderConfig.model_validate_json((file.metadata() or {})["encoder"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        encoder = SelfSupervisedEncoder(config).to(weights["backbone.stem.weight"].dtype)
        encoder.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        raise InputError(f"{path}: not an encoder that was saved here ({error})") from None
    return encoder.eval()

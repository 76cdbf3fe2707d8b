"""The interface of backbones, and how one is built from a config.

Shapes: N images, C/H/W channels/height/width, F features.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from cfamc_ray.config.encoder import EncoderConfig


def build_backbone(config: EncoderConfig) -> "Backbone":
    """Build the backbone of a config's architecture, stem, width and norm."""
    backbone: Backbone = config.architecture.build(config)
    return backbone


class Backbone(nn.Module, ABC):
    """A stem, one convolution of the unrounded pixels, followed by layers that may compute in a lower precision.

    Attributes:
        stem: the convolution.
        width: number of features (F).
    """

    stem: nn.Conv2d
    width: int

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Map pixels in [0, 1] to features_NF."""
        return self.after_stem(self.stem(images_NCHW))

    @abstractmethod
    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """Map the stem's output to features_NF."""

    @property
    def last_block(self) -> nn.Module:
        """What fine-tuning of the last block trains: the last module with weights, or of a sequence its last one."""
        last = list(self.children())[-1]
        blocks = list(last) if isinstance(last, nn.Sequential) else [last]
        return [block for block in blocks if any(True for _ in block.parameters())][-1]

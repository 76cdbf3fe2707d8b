"""What every backbone has, and how a config's one is built.

Shapes: N images, C/H/W channels/height/width, F features.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from cfamc_ray.config.encoder import EncoderConfig


def build_backbone(config: EncoderConfig) -> "Backbone":
    """What a config's architecture, stem, width and norm say."""
    backbone: Backbone = config.architecture.build(config)
    return backbone


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

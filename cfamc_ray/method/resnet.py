"""ResNets (arXiv 1512.03385) without a classifier, with a stem for small or for large images.

Shapes: N images, C/H/W channels/height/width, F features.
"""

from torch import Tensor, nn

from cfamc_ray.config.encoder import BackboneConfig, EncoderConfig
from cfamc_ray.method.backbones import Backbone
from cfamc_ray.method.convolution import Convolution
from cfamc_ray.method.norms import BatchNorm, Norm, group_norm, norm_relu

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
"""Number of blocks of each stage."""


def build_resnet(config: BackboneConfig, encoder: EncoderConfig) -> "ResNet":
    """Build a ResNet with the encoder's width, norm and stem."""
    norm = BatchNorm if encoder.norm == "batch" else group_norm
    return ResNet(config.name, encoder.width, norm, stem=encoder.stem)


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
        """Add the residual branch to the shortcut."""
        first, norm, _, second, last_norm = self.residual
        y_NCHW = second(norm_relu(norm, first(x_NCHW)))
        return norm_relu(last_norm, y_NCHW, self.shortcut(x_NCHW))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (arXiv 1512.03385, figure 5 right), with the stride in the 3x3."""

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
        """Add the residual branch to the shortcut."""
        first, norm, _, second, second_norm, _, third, last_norm = self.residual
        y_NCHW = second(norm_relu(norm, first(x_NCHW)))
        y_NCHW = third(norm_relu(second_norm, y_NCHW))
        return norm_relu(last_norm, y_NCHW, self.shortcut(x_NCHW))


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(Convolution(inputs, outputs, 1, stride), norm(outputs))


class ResNet(Backbone):
    """Four stages of doubling width, followed by the mean over the image.

    Args:
        architecture: a key of `BLOCKS`.
        width: channels of the first stage.
        norm: builds a norm layer, given the number of channels.
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
            if isinstance(module, nn.Conv2d):  # as in torchvision; with LARS, the norm of a weight sets its rate
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """Apply the stages and average over the image."""
        norm, _, *stages = self.stages
        x_NCHW = norm_relu(norm, x_NCHW)
        for stage in stages:
            x_NCHW = stage(x_NCHW)
        return x_NCHW.mean((-2, -1))

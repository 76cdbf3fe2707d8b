"""The encoder: a backbone by name, the pre-feature and the projector."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfamc_ray.config.components import Component, ComponentField, Registry
from cfamc_ray.config.types import Strict

Stem = Literal["small", "large"]


class BackboneConfig(Component):
    """A backbone; `build(encoder)`, given the `EncoderConfig`, gives a `cfamc_ray.method.backbones.Backbone`."""

    fuses_norm: ClassVar[bool] = False
    """Whether its batch norms and the operations after them can run as one kernel (`norms.norm_relu`)."""

    name: str
    """Name of the architecture."""

    def patch(self, stem: Stem) -> int:
        """Side of the input patches in pixels; the sides of images must be multiples of it."""
        return 1


BACKBONES = Registry[BackboneConfig]("architecture")


@BACKBONES.register
class ResNet18Config(BackboneConfig):
    """ResNet-18 (arXiv 1512.03385)."""

    implementation: ClassVar[str] = "cfamc_ray.method.resnet:build_resnet"
    fuses_norm: ClassVar[bool] = True

    name: Literal["resnet18"] = "resnet18"


@BACKBONES.register
class ResNet50Config(BackboneConfig):
    """ResNet-50 (arXiv 1512.03385)."""

    implementation: ClassVar[str] = "cfamc_ray.method.resnet:build_resnet"
    fuses_norm: ClassVar[bool] = True

    name: Literal["resnet50"] = "resnet50"


@BACKBONES.register
class VitConfig(BackboneConfig):
    """A vision transformer (arXiv 2010.11929) of 12 blocks and 3 heads, whose features are the mean of its tokens."""

    implementation: ClassVar[str] = "cfamc_ray.method.vit:build_vit"

    name: Literal["vit"] = "vit"

    def patch(self, stem: Stem) -> int:
        """See the base class."""
        return {"small": 4, "large": 16}[stem]


class EncoderConfig(Strict):
    """The encoder: a backbone without its classifier, then the pre-feature, then the projector."""

    architecture: Annotated[BackboneConfig, ComponentField(BACKBONES, ResNet18Config)] = ResNet18Config()
    """The backbone."""
    stem: Stem = "small"
    """First layer: `small` for images of about 32 pixels (ResNet: a 3x3 convolution of stride 1 and no max-pooling;
    ViT: patches of 4x4), `large` for about 224 (a 7x7 convolution of stride 2 and max-pooling; patches of 16x16)."""
    width: int = Field(default=64, ge=4, multiple_of=4)
    """Channels of a ResNet's first stage, or a third of a ViT's token width; the paper uses 64."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation layers. `group` normalises each image separately, so results do not depend on the batch or on the
    number of workers. The blocks of a ViT always use layer norm; this key sets its pre-feature and projector."""
    prefeature_width: int = Field(default=4096, ge=2)
    """Width of the layer that the linear probe reads."""
    hidden_width: int = Field(default=4096, ge=2)
    """Width of the projector's hidden layer."""
    embedding_width: int = Field(default=1024, ge=2)
    """Width of the embeddings (D), unit-length rows that are the input of the loss."""
    synchronize_norm: bool = True
    """Whether batch norm is synchronised over the workers of a trial on GPUs (published: no); torch does not support
    this on CPUs, where each worker normalises its own share."""

    @property
    def patch(self) -> int:
        """Side of the input patches in pixels; the sides of images must be multiples of it."""
        return self.architecture.patch(self.stem)

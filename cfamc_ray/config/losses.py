"""The losses of pretraining and their keys."""

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field

from cfamc_ray.config.components import Component, Registry
from cfamc_ray.config.types import Real


class LossConfig(Component):
    """What pretraining minimises and the perturbation ascends; `build()` gives a `cfamc_ray.method.losses.Loss`."""

    pair: ClassVar[bool] = False
    """Whether the loss compares exactly two views."""
    needs_labels: ClassVar[bool] = False
    """Whether it reads the classes of the images."""
    terms: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that it reports besides its value; each is a column of a trial's rows."""

    @abstractmethod
    def flops(self, views: int, images: int, width: int) -> float:
        """FLOPs of the matrix products of the loss and its gradient.

        Args:
            views: number of views of an image (V).
            images: number of images of a minibatch over all workers (B).
            width: width of an embedding (D).
        """


LOSSES = Registry[LossConfig]("loss")


@LOSSES.register
class EmpSslConfig(LossConfig):
    """EMP-SSL (arXiv 2304.03977): the negative weighted sum of the views' invariance and coding rate."""

    implementation: ClassVar[str] = "cfamc_ray.method.losses:EmpSslLoss"
    terms: ClassVar[tuple[str, ...]] = ("invariance", "coding_rate")

    name: Literal["emp_ssl"] = "emp_ssl"
    invariance_weight: Real = Field(default=200.0, ge=0)
    """Weight of the mean cosine similarity to the mean view."""
    rate_weight: Real = Field(default=1.0, ge=0)
    """Weight of the mean coding rate, which prevents collapse of the embeddings."""
    rate_epsilon: Real = Field(default=0.2, gt=0)
    """Distortion of the coding rate, not squared (the paper's formula squares it, its code does not)."""

    def flops(self, views: int, images: int, width: int) -> float:
        """FLOPs of the Gram matrices on the smaller side of the embeddings, and of the gradient of their factors."""
        side = min(images, width)
        return views * (6.0 * images * width * side + 2.0 * side**3)


@LOSSES.register
class NtXentConfig(LossConfig):
    """NT-Xent, SimCLR's contrastive loss of two views (arXiv 2002.05709)."""

    implementation: ClassVar[str] = "cfamc_ray.method.losses:NtXentLoss"
    pair: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("alignment",)

    name: Literal["nt_xent"] = "nt_xent"
    temperature: Real = Field(default=0.07, gt=0)
    """Temperature, by which similarities are divided."""

    def flops(self, views: int, images: int, width: int) -> float:
        """FLOPs of the similarities of all pairs of embeddings."""
        return _similarity_flops(views * images, width)


@LOSSES.register
class SupConConfig(LossConfig):
    """Supervised contrastive loss over all views (arXiv 2004.11362): images of one class attract each other.

    An image without a label attracts only its own views.
    """

    implementation: ClassVar[str] = "cfamc_ray.method.losses:SupConLoss"
    needs_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("alignment",)

    name: Literal["sup_con"] = "sup_con"
    temperature: Real = Field(default=0.1, gt=0)
    """Temperature, by which similarities are divided."""

    def flops(self, views: int, images: int, width: int) -> float:
        """FLOPs of the similarities of all pairs of embeddings."""
        return _similarity_flops(views * images, width)


def _similarity_flops(rows: int, width: int) -> float:
    """FLOPs of all pairs of rows: one product forward, two backward, each 2 FLOPs per multiply-add."""
    return 6.0 * rows**2 * width

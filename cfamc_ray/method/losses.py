"""The losses: EMP-SSL, NT-Xent and SupCon.

Shapes: V views, B images, N = V B rows, D embedding width. Embeddings are rows of unit length.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.losses import EmpSslConfig, NtXentConfig, SupConConfig


def coding_rate(z_VBD: Tensor, *, epsilon: float = 0.2) -> Tensor:
    """Coding rate of each view, which measures how much of the space its embeddings fill.

    1/2 logdet(I + D / (B epsilon) ZᵀZ), computed on the smaller of the two sides, since
    logdet(I_D + c ZᵀZ) = logdet(I_B + c ZZᵀ). Source: EMP-SSL (arXiv 2304.03977, equation 2), with epsilon not squared,
    as in the published code; the formula squares it.

    Args:
        z_VBD: embeddings, rows of unit length.
        epsilon: distortion, positive.

    Returns:
        rate_V in nats, in float32 at least.
    """
    _, B, D = z_VBD.shape
    z_VBD = _at_least_float32(z_VBD)
    gram_VSS = z_VBD @ z_VBD.mT if B <= D else z_VBD.mT @ z_VBD
    identity_SS = torch.eye(min(B, D), dtype=z_VBD.dtype, device=z_VBD.device)
    # The matrix is symmetric and its eigenvalues are at least 1, so the Cholesky factor exists.
    factor_VSS = torch.linalg.cholesky_ex(identity_SS + (D / (B * epsilon)) * gram_VSS).L
    rate_V: Tensor = factor_VSS.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return rate_V


def view_invariance(z_VBD: Tensor) -> Tensor:
    """Mean cosine similarity of each embedding to the mean view of its image, in [-1, 1] (EMP-SSL, equation 3)."""
    z_VBD = _at_least_float32(z_VBD)
    return F.cosine_similarity(z_VBD, z_VBD.mean(0, keepdim=True), dim=-1).mean()


def emp_ssl_loss(
    z_VBD: Tensor, *, invariance_weight: float = 200.0, rate_weight: float = 1.0, epsilon: float = 0.2
) -> Tensor:
    """EMP-SSL loss: the negative weighted sum of the views' invariance and mean coding rate (EMP-SSL, equation 4).

    Args:
        z_VBD: embeddings of V views of B images, rows of unit length.
        invariance_weight: weight of `view_invariance`.
        rate_weight: weight of the mean `coding_rate`.
        epsilon: distortion of the coding rate.
    """
    config = EmpSslConfig(invariance_weight=invariance_weight, rate_weight=rate_weight, rate_epsilon=epsilon)
    return EmpSslLoss(config)(z_VBD).total


def nt_xent_loss(z1_BD: Tensor, z2_BD: Tensor, *, temperature: float) -> Tensor:
    """Standard NT-Xent over 2B anchors (SimCLR, arXiv 2002.05709, equation 1).

    Args:
        z1_BD: embeddings of one view, rows of unit length.
        z2_BD: embeddings of the other view of the same images.
        temperature: divides the similarities; positive.
    """
    B = len(z1_BD)
    z_ND = _at_least_float32(torch.cat([z1_BD, z2_BD]))
    similarity_NN = (z_ND @ z_ND.T / temperature).fill_diagonal_(-torch.inf)
    positive_N = torch.arange(2 * B, device=z_ND.device).roll(B)
    return F.cross_entropy(similarity_NN, positive_N)


def sup_con_loss(z_VBD: Tensor, labels_B: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss over all V B anchors (L_out, arXiv 2004.11362, equation 2).

    Args:
        z_VBD: embeddings, rows of unit length.
        labels_B: classes of the images; -1 for none, in which case an image's own views are its only positives.
        temperature: divides the similarities; positive.
    """
    return SupConLoss(SupConConfig(temperature=temperature))(z_VBD, labels_B).total


def positives(labels_B: Tensor, *, views: int) -> Tensor:
    """Mask (V B, V B) of the pairs of embeddings that attract each other: same class or image, but not identical.

    Args:
        labels_B: classes of the images; -1 for none.
        views: number of views of each image (V), at least 2.
    """
    images_B = torch.arange(len(labels_B), device=labels_B.device)
    # An image without a class gets its own negative class, which no label has.
    classes_N = torch.where(labels_B < 0, -1 - images_B, labels_B).repeat(views)
    return (classes_N[:, None] == classes_N).fill_diagonal_(False)


class LossValue(NamedTuple):
    """Value and terms of a loss for the embeddings of a minibatch."""

    total: Tensor
    """The loss, a scalar: minimised by the weights and maximised by the perturbation."""
    terms: tuple[Tensor, ...] = ()
    """Scalars to report, in the order of the config's `terms`; no gradient is computed for them."""


class Loss(Protocol):
    """A loss, as `LossConfig.build` gives it."""

    def __call__(self, z_VBD: Tensor, labels_B: Tensor | None = None) -> LossValue:
        """Compute the loss over the minibatch of all workers.

        Args:
            z_VBD: embeddings, rows of unit length.
            labels_B: classes of the images, -1 for none; given to losses whose config `needs_labels`.
        """


class EmpSslLoss:
    """EMP-SSL's loss with its terms: the invariance and the mean coding rate, without weights."""

    def __init__(self, config: EmpSslConfig) -> None:
        self.config = config

    def __call__(self, z_VBD: Tensor, labels_B: Tensor | None = None) -> LossValue:
        """See `emp_ssl_loss`."""
        config = self.config
        invariance, rate = view_invariance(z_VBD), coding_rate(z_VBD, epsilon=config.rate_epsilon).mean()
        return LossValue(-config.invariance_weight * invariance - config.rate_weight * rate, (invariance, rate))


class NtXentLoss:
    """NT-Xent of two views with its term, the mean cosine similarity of positive pairs."""

    def __init__(self, config: NtXentConfig) -> None:
        self.config = config

    def __call__(self, z_VBD: Tensor, labels_B: Tensor | None = None) -> LossValue:
        """See `nt_xent_loss`."""
        z1_BD, z2_BD = z_VBD
        return LossValue(
            nt_xent_loss(z1_BD, z2_BD, temperature=self.config.temperature), ((z1_BD * z2_BD).sum(-1).mean(),)
        )


class SupConLoss:
    """Supervised contrastive loss with its term, the mean cosine similarity of positive pairs."""

    def __init__(self, config: SupConConfig) -> None:
        self.config = config

    def __call__(self, z_VBD: Tensor, labels_B: Tensor | None = None) -> LossValue:
        """See `sup_con_loss`."""
        assert labels_B is not None, "the config says that it needs labels"
        z_ND, positive_NN = _at_least_float32(z_VBD).flatten(0, 1), positives(labels_B, views=len(z_VBD))
        itself_NN = torch.eye(len(z_ND), dtype=torch.bool, device=z_ND.device)
        similarity_NN = z_ND @ z_ND.T
        log_share_NN = (similarity_NN / self.config.temperature).masked_fill(itself_NN, -torch.inf).log_softmax(-1)
        loss = -(log_share_NN.where(positive_NN, 0.0).sum(-1) / positive_NN.sum(-1)).mean()
        return LossValue(loss, (similarity_NN.detach().where(positive_NN, 0.0).sum() / positive_NN.sum(),))


def _at_least_float32(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))

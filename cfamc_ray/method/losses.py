"""EMP-SSL's loss and NT-Xent.

Shapes: V views, B images, D embedding width. Embeddings are rows of unit length.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def coding_rate(z_VBD: Tensor, *, epsilon: float = 0.2) -> Tensor:
    """Coding rate of each view: how much of the space its embeddings fill.

    1/2 logdet(I + D / (B epsilon) ZᵀZ), computed on the smaller of the two sides, since
    logdet(I_D + c ZᵀZ) = logdet(I_B + c ZZᵀ). Source: EMP-SSL (arXiv 2304.03977, equation 2), with epsilon used as it
    is, as in the published code, where the formula squares it.

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
    """Mean cosine between each embedding and its image's mean over the views, in [-1, 1] (EMP-SSL, equation 3)."""
    z_VBD = _at_least_float32(z_VBD)
    return F.cosine_similarity(z_VBD, z_VBD.mean(0, keepdim=True), dim=-1).mean()


def emp_ssl_loss(
    z_VBD: Tensor,
    *,
    invariance_weight: float = 200.0,
    rate_weight: float = 1.0,
    epsilon: float = 0.2,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Minus the weighted invariance of the views, minus the weighted mean of their coding rates (EMP-SSL, equation 4).

    Args:
        z_VBD: embeddings of V views of B images, rows of unit length.
        invariance_weight: weight of `view_invariance`.
        rate_weight: weight of the mean `coding_rate`.
        epsilon: distortion of the coding rate.
        observe: is shown the two terms, detached, before they are weighted.
    """
    invariance, rate = view_invariance(z_VBD), coding_rate(z_VBD, epsilon=epsilon).mean()
    if observe is not None:
        observe(invariance.detach(), rate.detach())
    return -invariance_weight * invariance - rate_weight * rate


def nt_xent_loss(z1_BD: Tensor, z2_BD: Tensor, *, temperature: float) -> Tensor:
    """Standard NT-Xent over 2B anchors (SimCLR, arXiv 2002.05709, equation 1).

    Args:
        z1_BD: embeddings of one view, rows of unit length.
        z2_BD: embeddings of the same images' other view.
        temperature: positive.
    """
    B = len(z1_BD)
    z_ND = _at_least_float32(torch.cat([z1_BD, z2_BD]))
    similarity_NN = (z_ND @ z_ND.T / temperature).fill_diagonal_(-torch.inf)
    positive_N = torch.arange(2 * B, device=z_ND.device).roll(B)
    return F.cross_entropy(similarity_NN, positive_N)


def _at_least_float32(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))

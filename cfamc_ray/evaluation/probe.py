"""A linear probe: multinomial logistic regression on frozen features, full batch and deterministic.

Shapes: N images, F features, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEMORY = 10
"""Past steps that L-BFGS keeps."""


def fit_probe(
    features_NF: Tensor, labels_N: Tensor, *, classes: int, l2: float, tolerance: float, iterations: int
) -> nn.Linear:
    """Fit a linear classifier to convergence.

    Minimises the mean cross-entropy plus l2/2 |W|² over the weights of standardised features (L-BFGS with a strong
    Wolfe line search from zero, in the features' type); the standardisation is then folded into the returned layer.

    Args:
        features_NF: of the training images, float32 or float64.
        labels_N: classes from 0 to classes - 1.
        classes: K.
        l2: strength, positive.
        tolerance: the fit ends when no entry of the gradient exceeds it.
        iterations: the fit ends after so many at the latest.

    Returns:
        a layer from F features, as they are, to K logits; its parameters need no gradient.
    """
    mean_F, spread_F = features_NF.mean(0), features_NF.std(0, correction=0)
    scale_F = torch.where(spread_F > 0, 1 / spread_F.clamp(min=torch.finfo(spread_F.dtype).tiny), 0.0)
    standard_NF = (features_NF - mean_F) * scale_F
    weight_KF = standard_NF.new_zeros(classes, features_NF.shape[1], requires_grad=True)
    bias_K = standard_NF.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_KF, bias_K],
        max_iter=iterations,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(standard_NF, weight_KF, bias_K), labels_N)
        loss = loss + l2 / 2 * weight_KF.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    # No initial weights: drawing them would move the process's global random state.
    head: nn.Linear = nn.utils.skip_init(
        nn.Linear, features_NF.shape[1], classes, device=features_NF.device, dtype=features_NF.dtype
    )
    with torch.no_grad():
        head.weight.copy_(weight_KF * scale_F)
        head.bias.copy_(bias_K - head.weight @ mean_F)
    return head.requires_grad_(False)

"""Linear heads on frozen features: logistic regression fitted to convergence, and heads trained by minibatch.

Shapes: N images, of which B make a minibatch, F features, K classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from cfamc_ray.config.heads import HeadConfig, ProbeConfig
from cfamc_ray.method.optimizer import build_scheduler

MEMORY = 10
"""Number of past steps that L-BFGS stores."""


def fit_path(
    features_NF: Tensor,
    labels_N: Tensor,
    *,
    classes: int,
    strengths: Sequence[float],
    tolerance: float,
    iterations: int,
) -> list[nn.Linear]:
    """Fit a linear classifier to convergence with each of several strengths of the L2 penalty.

    Minimises the mean cross-entropy plus l2/2 |W|² over the weights of standardised features (L-BFGS with a strong
    Wolfe line search, in the features' type), first with the largest strength and from zero, then with each smaller
    one from the fit before it. The standardisation is then folded into the returned layers.

    Args:
        features_NF: features of the training images, float32 or float64.
        labels_N: classes from 0 to classes - 1.
        classes: number of classes (K).
        strengths: strengths of the L2 penalty, positive.
        tolerance: a fit ends when no entry of the gradient exceeds it in absolute value.
        iterations: largest number of iterations of a fit.

    Returns:
        One layer for each strength, in their order, from F unstandardised features to K logits; their parameters need
        no gradient.
    """
    mean_F, spread_F = features_NF.mean(0), features_NF.std(0, correction=0)
    scale_F = torch.where(spread_F > 0, 1 / spread_F.clamp(min=torch.finfo(spread_F.dtype).tiny), 0.0)
    standard_NF = (features_NF - mean_F) * scale_F
    weight_KF = standard_NF.new_zeros(classes, features_NF.shape[1], requires_grad=True)
    bias_K = standard_NF.new_zeros(classes, requires_grad=True)
    heads = {}
    for l2 in sorted(strengths, reverse=True):
        _minimise(standard_NF, labels_N, weight_KF, bias_K, l2=l2, tolerance=tolerance, iterations=iterations)
        # No initial weights: drawing them would change the process's global random state.
        head: nn.Linear = nn.utils.skip_init(
            nn.Linear, features_NF.shape[1], classes, device=features_NF.device, dtype=features_NF.dtype
        )
        with torch.no_grad():
            head.weight.copy_(weight_KF * scale_F)
            head.bias.copy_(bias_K - head.weight @ mean_F)
        heads[l2] = head.requires_grad_(False)
    return [heads[l2] for l2 in strengths]


def _minimise(
    standard_NF: Tensor,
    labels_N: Tensor,
    weight_KF: Tensor,
    bias_K: Tensor,
    *,
    l2: float,
    tolerance: float,
    iterations: int,
) -> None:
    """Minimise the penalised cross-entropy over weights and biases, in place."""
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


def fit_converged(features_NF: Tensor, labels_N: Tensor, *, classes: int, config: ProbeConfig) -> list[nn.Linear]:
    """`fit_path` with the settings of a config."""
    return fit_path(
        features_NF,
        labels_N,
        classes=classes,
        strengths=config.l2,
        tolerance=config.tolerance,
        iterations=config.iterations,
    )


def default_head(features_NF: Tensor, classes: int, *, seed: int) -> nn.Linear:
    """Create a layer with torch's default initial weights, in the features' type and on their device.

    Args:
        features_NF: inputs of the layer.
        classes: number of classes (K).
        seed: seed of the weights; the process's global random state does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
        return nn.Linear(features_NF.shape[1], classes).to(features_NF)


def train_probe(
    head: nn.Linear,
    config: HeadConfig,
    features_NF: Tensor,
    labels_N: Tensor,
    *,
    generator: torch.Generator,
    attacked_features: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train a head in place on the mean cross-entropy of shuffled minibatches; the last of an epoch may be smaller.

    Args:
        head: layer from F features to K logits; its parameters need no gradient afterwards.
        config: optimizer and phases, which share the optimizer; without phases the head does not change.
        features_NF: features of the training images, for clean phases.
        labels_N: classes from 0 to K - 1, on the features' device.
        generator: generator of the order of the images, on the CPU.
        attacked_features: for adversarial phases: maps indices_B of images, on the device of the labels, to the
            features_BF of those images, attacked through the current head (`classifier.attacked_features`).
    """
    head.requires_grad_(True)
    optimizer = _optimizer(head, config)
    schedule = build_scheduler(optimizer, horizon=config.cosine_epochs)
    for phase in config.phases:
        features_of = features_NF.__getitem__ if phase == "clean" else attacked_features
        assert features_of is not None, "an adversarial phase needs attacked_features"
        for _ in range(config.epochs):
            order_N = torch.randperm(len(labels_N), generator=generator).to(labels_N.device)
            for indices_B in order_N.split(config.batch_images):
                features_BF = features_of(indices_B)
                with torch.enable_grad():
                    loss = F.cross_entropy(head(features_BF), labels_N[indices_B])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    head.requires_grad_(False)


def _optimizer(head: nn.Linear, config: HeadConfig) -> Optimizer:
    if config.fit == "sgd":
        return SGD(head.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return Adam(head.parameters(), lr=config.lr)

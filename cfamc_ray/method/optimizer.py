"""SGD with Nesterov momentum and LARS as the published recipe has it, and its learning-rate schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

EPSILON = 1e-8
"""Keeps the trust ratio finite, as in the published code."""


class Lars(torch.optim.SGD):
    """SGD whose every weight tensor has its own rate, at most lr (LARS with clipping, arXiv 1708.03888).

    For a parameter w of two or more axes with gradient g the step uses g' = r (g + weight_decay w), where
    r = min(1, trust_coefficient |w| / (|g| + weight_decay |w| + 1e-8) / lr). Parameters of fewer axes (biases and
    norms) take plain momentum steps without decay; the groups say which. The work is done on lists of tensors and
    nothing is copied to the host. `clipped_share` holds the share of layers whose last step was limited by lr.
    """

    clipped_share: Tensor | None = None

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Scale the gradients of the adapted groups in place, then take SGD's step."""
        for group in self.param_groups:
            if group["trust_coefficient"] is not None:
                self._adapt(group)
        return super().step(closure)  # type: ignore[no-any-return]

    def _adapt(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients: list[Tensor] = [weight.grad for weight in weights]
        weight_norms = torch.stack(torch._foreach_norm(weights))
        gradient_norms = torch.stack(torch._foreach_norm(gradients))
        decay = group["decay_before_trust"]
        trust = group["trust_coefficient"] * weight_norms / (gradient_norms + decay * weight_norms + EPSILON)
        # A layer of zeros, or without a gradient, takes the plain step; so does one at lr = 0, which does not move.
        usable = (weight_norms > 0) & (gradient_norms > 0)
        usable &= group["lr"] > 0
        ratio = torch.where(usable, trust / max(group["lr"], torch.finfo(trust.dtype).tiny), 1.0)
        self.clipped_share = (usable & (ratio >= 1)).float().mean()
        torch._foreach_add_(gradients, weights, alpha=decay)
        torch._foreach_mul_(gradients, list(ratio.clamp(max=1.0).unbind()))


def build_optimizer(
    parameters: Iterable[Tensor],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    trust_coefficient: float | None = 0.005,
) -> torch.optim.Optimizer:
    """The optimizer of the published recipe.

    Args:
        parameters: of the encoder; those of fewer than two axes get neither decay nor LARS.
        lr: largest effective rate of a layer.
        momentum: of Nesterov's kind, where it is not 0.
        weight_decay: L2 strength for weights.
        trust_coefficient: of LARS; None for plain SGD.
    """
    parameters = list(parameters)
    adapts = trust_coefficient is not None
    weights: dict[str, Any] = {
        "params": [p for p in parameters if p.ndim > 1],
        "trust_coefficient": trust_coefficient,
        # LARS scales the decay with the gradient, so it adds it itself, before SGD sees the sum.
        "decay_before_trust": weight_decay if adapts else 0.0,
        "weight_decay": 0.0 if adapts else weight_decay,
    }
    vectors: dict[str, Any] = {
        "params": [p for p in parameters if p.ndim <= 1],
        "trust_coefficient": None,
        "decay_before_trust": 0.0,
        "weight_decay": 0.0,
    }
    groups = [group for group in (weights, vectors) if group["params"]]
    return Lars(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


def build_scheduler(optimizer: torch.optim.Optimizer, *, horizon: int | None) -> LambdaLR:
    """A cosine from the full rate to 0, advanced once per weight update.

    Past the horizon it rises again, as in the published code, whose horizon is too short.

    Args:
        optimizer: whose rate is set.
        horizon: updates until the rate is 0; None for a constant rate.
    """
    if horizon is None:
        return LambdaLR(optimizer, lambda update: 1.0)
    return LambdaLR(optimizer, lambda update: (1 + math.cos(math.pi * update / horizon)) / 2)

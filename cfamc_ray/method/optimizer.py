"""SGD with Nesterov momentum and LARS as in the published recipe, AdamW, and the schedule of their learning rate."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, overload

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from cfamc_ray.config.optimizers import AdamWConfig, LarsConfig

EPSILON = 1e-8
"""Constant that keeps the trust ratio finite, as in the published code."""


class Optimizer(Protocol):
    """A `torch.optim.Optimizer`, as `OptimizerConfig.build` gives it, with what training asks of it besides."""

    clipped_share: Tensor | None
    """Fraction of layers whose last step was limited by the learning rate; None if none can be."""

    def state_tensors(self) -> list[Tensor]:
        """All that its steps change besides the weights, in place; made where it is missing, without effect."""

    def uncompiled(self) -> None:
        """Take steps that torch.compile has no part in from now on."""


class Lars(torch.optim.SGD):
    """SGD in which every weight tensor has its own rate, at most lr (LARS with clipping, arXiv 1708.03888).

    For a parameter w of two or more axes with gradient g the step uses g' = r (g + weight_decay w), where
    r = min(1, trust_coefficient |w| / (|g| + weight_decay |w| + 1e-8) / lr). Parameters of fewer axes (biases and
    norms) take plain momentum steps without decay; the groups define which. The step operates on lists of tensors and
    copies nothing to the host. `clipped_share` is the fraction of layers whose last step was limited by lr.

    Args:
        groups: parameter groups with their settings.
        lr: learning rate.
        momentum: Nesterov momentum; 0 for none.
        compiled: whether torch.compile fuses a step: it then reads and writes every tensor once, after the norms.
    """

    clipped_share: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float, compiled: bool = False) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=not compiled)
        self._compiled_step = torch.compile(_nesterov_step) if compiled else None

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Scale the gradients of the adapted groups in place, then take SGD's step."""
        for group in self.param_groups:
            weights: list[Tensor] = [weight for weight in group["params"] if weight.grad is not None]
            if not weights or (self._compiled_step is None and group["trust_coefficient"] is None):
                continue  # nothing to scale, so SGD's step is sufficient
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            rate = _on_device(group["lr"], weights)
            adapt = {"decay": group["decay_before_trust"], "coefficient": group["trust_coefficient"]}
            if self._compiled_step is not None:
                momenta = [self._momentum(weight) for weight in weights] if group["momentum"] else []
                sgd = {name: group[name] for name in ("momentum", "weight_decay")}
                clipped = self._compiled_step(weights, gradients, momenta, rate, **adapt, **sgd)
            else:
                clipped = _adapt(weights, gradients, rate, **adapt)
            self.clipped_share = self.clipped_share if clipped is None else clipped
        return None if self._compiled_step is not None else super().step(closure)

    def uncompiled(self) -> None:
        """Use SGD's own, uncompiled steps from now on."""
        self._compiled_step = None
        for group in self.param_groups:
            group["fused"] = True

    def _momentum(self, weight: Tensor) -> Tensor:
        buffer: Tensor | None = self.state[weight].get("momentum_buffer")
        if buffer is None:
            buffer = self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return buffer

    def state_tensors(self) -> list[Tensor]:
        """All momenta; zeros before the first step, which is equivalent to no momenta."""
        groups = [group for group in self.param_groups if group["momentum"]]
        return [self._momentum(weight) for group in groups for weight in group["params"]]

    @contextmanager
    def rate_from(self, rate: Tensor) -> Iterator[None]:
        """Let steps read the learning rate from a tensor on the device, as a captured step must."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = rate
        try:
            yield
        finally:
            for group, before in zip(self.param_groups, rates, strict=True):
                group["lr"] = before


def _on_device(rate: float | Tensor, weights: list[Tensor]) -> Tensor:
    """The rate on the weights' device; on a GPU a kernel writes it, so that the host does not wait."""
    if isinstance(rate, Tensor):
        return rate
    return torch.full((), rate, dtype=weights[0].dtype, device=weights[0].device)


def _adapt(
    weights: list[Tensor], gradients: list[Tensor], rate: Tensor, *, decay: float, coefficient: float | None
) -> Tensor | None:
    """Add the decay to the gradients and scale them by r, in place; without a coefficient, do nothing.

    Returns:
        The fraction of layers whose r is 1; None without a coefficient.
    """
    if coefficient is None:
        return None
    weight_norms = torch.stack(torch._foreach_norm(weights))
    gradient_norms = torch.stack(torch._foreach_norm(gradients))
    trust = coefficient * weight_norms / (gradient_norms + decay * weight_norms + EPSILON)
    # A layer of zeros, or without a gradient, takes the plain step; so does one at lr = 0, which does not move.
    usable = (weight_norms > 0) & (gradient_norms > 0) & (rate > 0)
    ratio = torch.where(usable, trust / rate.clamp(min=torch.finfo(trust.dtype).tiny), 1.0)
    torch._foreach_add_(gradients, weights, alpha=decay)
    torch._foreach_mul_(gradients, list(ratio.clamp(max=1.0).unbind()))
    return (usable & (ratio >= 1)).float().mean()


def _nesterov_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    rate: Tensor,
    *,
    decay: float,
    coefficient: float | None,
    momentum: float,
    weight_decay: float,
) -> Tensor | None:
    """`_adapt` and SGD's step as one function of tensors, so that torch.compile can fuse them."""
    clipped = _adapt(weights, gradients, rate, decay=decay, coefficient=coefficient)
    if weight_decay:
        torch._foreach_add_(gradients, weights, alpha=weight_decay)
    if momentum:
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(gradients, momenta, alpha=momentum)
    torch._foreach_sub_(weights, torch._foreach_mul(gradients, rate))
    return clipped


class AdamW(torch.optim.AdamW):
    """AdamW whose state exists before the first step, so that a rehearsed step can be undone."""

    clipped_share: Tensor | None = None

    def state_tensors(self) -> list[Tensor]:
        """Counts of steps and means of gradients and of their squares; zeros before the first step, as torch has it."""
        tensors = []
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            tensors += [state["step"], state["exp_avg"], state["exp_avg_sq"]]
        return tensors

    def uncompiled(self) -> None:
        """Nothing to do: no step is compiled."""


def build_lars(config: LarsConfig, parameters: Iterable[Tensor], *, compiled: bool = False) -> Lars:
    """Build LARS as its config says."""
    return build_optimizer(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        trust_coefficient=config.trust_coefficient,
        compiled=compiled,
    )


def build_adamw(config: AdamWConfig, parameters: Iterable[Tensor], *, compiled: bool = False) -> AdamW:
    """Build AdamW as its config says; its fused step has nothing to compile."""
    weights, vectors = _by_axes(parameters)
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True)


def _by_axes(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights, of two or more axes, and biases and norms, of fewer."""
    parameters = list(parameters)
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def build_optimizer(
    parameters: Iterable[Tensor],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    trust_coefficient: float | None = 0.005,
    compiled: bool = False,
) -> Lars:
    """Build the optimizer of the published recipe.

    Args:
        parameters: parameters of the encoder; those of fewer than two axes get neither decay nor LARS.
        lr: largest effective learning rate of a layer.
        momentum: Nesterov momentum; 0 for none.
        weight_decay: weight decay (L2) of the weights.
        trust_coefficient: trust coefficient of LARS; None for plain SGD.
        compiled: whether torch.compile fuses a step.
    """
    matrices, biases = _by_axes(parameters)
    adapts = trust_coefficient is not None
    weights: dict[str, Any] = {
        "params": matrices,
        "trust_coefficient": trust_coefficient,
        # LARS scales the decay together with the gradient, so it adds the decay itself, before SGD's step.
        "decay_before_trust": weight_decay if adapts else 0.0,
        "weight_decay": 0.0 if adapts else weight_decay,
    }
    vectors: dict[str, Any] = {
        "params": biases,
        "trust_coefficient": None,
        "decay_before_trust": 0.0,
        "weight_decay": 0.0,
    }
    groups = [group for group in (weights, vectors) if group["params"]]
    return Lars(groups, lr=lr, momentum=momentum, compiled=compiled)


def build_scheduler(
    optimizer: torch.optim.Optimizer, *, horizon: int | None, begun: int = 0, warm_up: int = 0
) -> LambdaLR:
    """Build a schedule, advanced once per weight update: linear up to the full rate, then a cosine from it to 0.

    Beyond the horizon the rate rises again, as in the published code, whose horizon is too short.

    Args:
        optimizer: optimizer whose rate is set.
        horizon: number of updates until the rate is 0; None for a constant rate.
        begun: number of these updates before the first one.
        warm_up: number of updates in which the rate grows; fewer than the horizon.
    """

    def factor(update: int) -> float:
        at = begun + update
        if at < warm_up:
            return (at + 1) / warm_up
        return 1.0 if horizon is None else (1 + math.cos(math.pi * (at - warm_up) / (horizon - warm_up))) / 2

    return LambdaLR(optimizer, factor)

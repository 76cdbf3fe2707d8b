"""The attack of a search: three starts of gradient ascent on logit margins, for several heads at once.

Heads of one encoder share the passes through it: each step classifies the images by all heads, so an adversarial image
for one head is tried on all others. The first start ascends the margins of the heads with the weaker L2 penalties, the
second those of the others, because their gradients differ; the third ascends all of them towards the second most likely
wrong class, as multi-targeted attacks do (arXiv 1910.09338). Steps shrink from the radius to a fifth of it.
`benchmarks/attacks.py` compares it with PGD, APGD and AutoAttack.

Shapes: N images, of which n are attacked, L heads, C/H/W channels/height/width, F features, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.attacks import MarginsConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.evaluation.attacks import random_start
from cfamc_ray.method.parallel import ALONE, DistributedContext
from cfamc_ray.method.perturbation import ascend

Start = Literal["weaker", "stronger", "second_class"]
STARTS: tuple[Start, ...] = get_args(Start)
LAST_STEP = 0.2
"""Size of the last step of a start, divided by the radius; the first is the radius, those between are geometric."""


class _Broken(NamedTuple):
    """The result of an attack."""

    images_NCHW: Tensor
    """For each image the one that broke its last head, or the end of the last start."""
    right_NL: Tensor
    """Which heads still classify each image correctly."""


def attack_margins(
    logits_of: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    right_NL: Tensor,
    *,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    at_once: int,
    shrink: bool | None = None,
    workers: DistributedContext = ALONE,
    norm: Norm = "linf",
) -> _Broken:
    """Attack all heads that classify an image correctly, until none does.

    Args:
        logits_of: maps images to logits (N, L, K); heads with weaker L2 penalties first.
        images: pixels in [0, 1], (N, C, H, W), or (N, V, C, H, W) if each of V crops is attacked.
        labels: true classes (N).
        right_NL: which heads classify each image correctly; images without any are not attacked.
        epsilon: radius of the ball.
        steps: number of ascent steps of each start.
        generator: generator of the starts, on the CPU.
        at_once: number of images of one pass, which determines the memory; the result does not depend on it.
        shrink: whether broken images leave the batch at once; the result is the same. None: only on CPUs, since the
            host would wait for a GPU in each step.
        workers: workers that share the images; all call this with the same arguments and get the same result.
        norm: norm of the ball; in l2 each image, or each crop of it, has a ball of its own.
    """
    shrink = images.device.type == "cpu" if shrink is None else shrink
    adversarial, right_NL = images.clone(), right_NL.clone()
    for start in STARTS:
        delta = random_start(images, epsilon=epsilon, norm=norm, generator=generator)
        indices_n = right_NL.any(1).nonzero().squeeze(1)
        if len(indices_n) == 0:
            break
        parts = [
            _one_start(
                logits_of, images[part], labels[part], delta[part], right_NL[part], start, epsilon, norm, steps, shrink
            )
            for part in workers.part(indices_n).split(at_once)
        ]
        ends, rights = (torch.cat(part) for part in zip(*parts, strict=True))
        adversarial[indices_n] = workers.gather(ends, len(indices_n))
        right_NL[indices_n] = workers.gather(rights.to(torch.uint8), len(indices_n)).bool()
    return _Broken(adversarial, right_NL)


def _one_start(
    logits_of: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta: Tensor,
    right_NL: Tensor,
    start: Start,
    epsilon: float,
    norm: Norm,
    steps: int,
    shrink: bool,
) -> _Broken:
    adversarial, right = x.clone(), right_NL.clone()
    rows_n = torch.arange(len(x), device=x.device)
    group_L = _group(start, right_NL)
    target_nL = _second_class(logits_of, x, y) if start == "second_class" else None
    for step in range(steps):
        perturbed = (x + delta).requires_grad_()
        with torch.enable_grad():
            logits_nLK = logits_of(perturbed)
            right_NL = right_NL & _right(logits_nLK, y)
            ascended = (_margins(logits_nLK, y, target_nL) * _attacked(right_NL, group_L)).sum()
            (gradient,) = torch.autograd.grad(ascended, perturbed)
        left_n = right_NL.any(1)
        if shrink:
            right[rows_n], adversarial[rows_n] = right_NL, perturbed.detach()
            rows_n, x, y, delta, gradient, right_NL = (
                each[left_n] for each in (rows_n, x, y, delta, gradient, right_NL)
            )
            target_nL = None if target_nL is None else target_nL[left_n]
            if len(rows_n) == 0:
                return _Broken(adversarial, right)
            left_n = left_n[left_n]
        size = epsilon * LAST_STEP ** (step / max(steps - 1, 1))
        after = ascend(delta, gradient, x, step_size=size, epsilon=epsilon, norm=norm)
        delta = torch.where(left_n.view(-1, *[1] * (x.dim() - 1)), after, delta)  # broken images do not change
    with torch.no_grad():
        right[rows_n] = right_NL & _right(logits_of(x + delta), y)
    adversarial[rows_n] = x + delta
    return _Broken(adversarial, right)


def _right(logits_NLK: Tensor, labels_N: Tensor) -> Tensor:
    """Which heads classify each image correctly, (N, L); logits that are not finite are wrong."""
    return (logits_NLK.argmax(-1) == labels_N[:, None]) & logits_NLK.isfinite().all(-1)


def _margins(logits_NLK: Tensor, labels_N: Tensor, target_NL: Tensor | None) -> Tensor:
    """Logit of the target, or else the largest wrong one, minus the true one, (N, L)."""
    true_NL1 = labels_N[:, None, None].expand(-1, logits_NLK.shape[1], 1)
    if target_NL is None:
        wrong_NL = logits_NLK.scatter(-1, true_NL1, -torch.inf).amax(-1)
    else:
        wrong_NL = logits_NLK.gather(-1, target_NL[..., None]).squeeze(-1)
    margin_NL = wrong_NL - logits_NLK.gather(-1, true_NL1).squeeze(-1)
    # Heads with a weak L2 penalty have larger logits; without this they would decide the direction alone.
    return margin_NL / logits_NLK.detach().std(-1).clamp_min(torch.finfo(logits_NLK.dtype).tiny)


@torch.no_grad()
def _second_class(logits_of: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The second most likely wrong class of each image and head, (N, L); with two classes the only wrong one."""
    logits_NLK = logits_of(x)
    true_NL1 = y[:, None, None].expand(-1, logits_NLK.shape[1], 1)
    wrong_NLK = logits_NLK.scatter(-1, true_NL1, -torch.inf)
    return wrong_NLK.topk(min(2, logits_NLK.shape[-1] - 1), dim=-1).indices[..., -1]


def _group(start: Start, right_NL: Tensor) -> Tensor:
    """Which heads a start is for, (L)."""
    L = right_NL.shape[1]
    places_L = torch.arange(L, device=right_NL.device)
    first, end = {"weaker": (0, L // 2), "stronger": (L // 2, L), "second_class": (0, L)}[start]
    return (first <= places_L) & (places_L < end)


def _attacked(right_NL: Tensor, group_L: Tensor) -> Tensor:
    """Which heads of each image are attacked: of the group those that are right, or else all that are right."""
    own_NL = right_NL & group_L
    return torch.where(own_NL.any(1, keepdim=True), own_NL, right_NL)


class Margins:
    """The attack with the settings of a config; it is a `SharedAttack` too."""

    def __init__(self, config: MarginsConfig) -> None:
        self.config = config

    def __call__(
        self,
        logits_of: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilon: float,
        generator: torch.Generator,
        at_once: int,
        workers: DistributedContext = ALONE,
        norm: Norm = "linf",
    ) -> Tensor:
        """See `Attack`."""
        return attack_margins(
            lambda x: logits_of(x)[:, None],
            images,
            labels,
            torch.ones(len(images), 1, dtype=torch.bool, device=images.device),
            epsilon=epsilon,
            norm=norm,
            steps=self.config.steps,
            generator=generator,
            at_once=at_once,
            workers=workers,
        ).images_NCHW

    def still_right(
        self,
        features_of: Callable[[Tensor], Tensor],
        heads: Sequence[nn.Linear],
        images: Tensor,
        labels: Tensor,
        right_NL: Tensor,
        *,
        epsilon: float,
        generator: torch.Generator,
        at_once: int,
        workers: DistributedContext = ALONE,
        norm: Norm = "linf",
    ) -> Tensor:
        """See `SharedAttack`."""

        def logits_of(x: Tensor) -> Tensor:
            features_NF = features_of(x)
            return torch.stack([F.linear(features_NF, head.weight, head.bias) for head in heads], 1)

        return attack_margins(
            logits_of,
            images,
            labels,
            right_NL,
            epsilon=epsilon,
            norm=norm,
            steps=self.config.steps,
            generator=generator,
            at_once=at_once,
            workers=workers,
        ).right_NL

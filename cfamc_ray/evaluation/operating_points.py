"""The operating points of an encoder: linear probes of several L2 strengths, which need no training of their own.

Shapes: N images, L heads, C/H/W channels/height/width, F features, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from cfamc_ray.config.attacks import AttackConfig
from cfamc_ray.config.heads import ProbeConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.attacks import SharedAttack
from cfamc_ray.evaluation.batches import images_of_a_call, still_right
from cfamc_ray.evaluation.classifier import LinearClassifier, as_pixels
from cfamc_ray.evaluation.probe import fit_converged
from cfamc_ray.method.parallel import ALONE, DistributedContext


@dataclass(frozen=True)
class OperatingPoint:
    """Accuracies, as fractions, of an encoder with one of its heads."""

    l2: float
    """L2 strength of the linear probe."""
    probe_accuracy: float
    """Accuracy on the images on which the probe was fitted."""
    clean_accuracy: float
    robust_accuracy: float


UNKNOWN = OperatingPoint(math.nan, math.nan, math.nan, math.nan)
"""The point of an encoder that was not evaluated."""


def balanced(points: Sequence[OperatingPoint]) -> OperatingPoint:
    """The point with the largest sum of clean and robust accuracy; of equal ones that with the smallest strength."""
    return max(points, key=lambda point: (point.clean_accuracy + point.robust_accuracy, -point.l2))


def right_of(heads: Sequence[nn.Linear], features_NF: Tensor, labels_N: Tensor) -> Tensor:
    """Find which images each head classifies correctly.

    Returns:
        right_NL, booleans on the CPU.

    Raises:
        FloatingPointError: if logits are not finite.
    """
    logits = [head(features_NF) for head in heads]
    if not all(bool(logits_NK.isfinite().all()) for logits_NK in logits):
        raise FloatingPointError("the classifier's logits are not finite")
    labels_N = labels_N.to(features_NF.device)
    return torch.stack([logits_NK.argmax(-1) == labels_N for logits_NK in logits], 1).cpu()


def still_right_of(
    classifier: LinearClassifier,
    heads: Sequence[nn.Linear],
    images: LabelledImages,
    right_NL: Tensor,
    attack: AttackConfig,
    *,
    epsilon: float,
    generator: torch.Generator,
    at_once: int = BATCH,
    workers: DistributedContext = ALONE,
    norm: Norm = "linf",
) -> Tensor:
    """Find which of the first N images each head classifies correctly under an attack.

    An attack that `shares_heads` attacks all heads at once; others attack one after the other.

    Args:
        classifier: the encoder and which of its features the heads read; its head changes.
        heads: linear heads.
        images: images and their labels, at least N.
        right_NL: which images each head classifies correctly without the attack, booleans on the CPU.
        attack: the attack.
        epsilon: radius of the ball.
        generator: generator of the attack's random numbers, on the CPU.
        at_once: number of images that the encoder processes at once.
        workers: workers that share the images; all get the complete result.
        norm: norm of the ball.

    Returns:
        right_NL, booleans on the CPU.
    """
    built = attack.build()
    settings = {**attack.ball(epsilon, norm), "generator": generator, "at_once": at_once, "workers": workers}
    if attack.shares_heads:
        shared = cast(SharedAttack, built)
        left_NL = torch.zeros_like(right_NL)
        for positions_b in torch.arange(len(right_NL)).split(images_of_a_call(classifier, images)):
            pixels_bCHW = as_pixels(images.images_NCHW[positions_b], classifier)
            labels_b = images.labels_N[positions_b].to(pixels_bCHW.device)
            right_bL = right_NL[positions_b].to(pixels_bCHW.device)
            left_bL = shared.still_right(classifier.features_of, heads, pixels_bCHW, labels_b, right_bL, **settings)
            left_NL[positions_b] = left_bL.cpu()
        return left_NL
    left = []
    for head, right_N in zip(heads, right_NL.unbind(1), strict=True):
        classifier.head = head
        left.append(
            still_right(
                classifier,
                images,
                right_N,
                partial(built, classifier, **settings),
                at_once=at_once,
                whole_sample=attack.whole_sample,
                workers=workers,
            )
        )
    return torch.stack(left, 1)


def fit_points(
    classifier: LinearClassifier,
    probe_NF: Tensor,
    probe_labels_N: Tensor,
    held_out_NF: Tensor,
    held_out: LabelledImages,
    *,
    classes: int,
    config: ProbeConfig,
    attack: AttackConfig,
    epsilon: float,
    attacked_images: int,
    generator: torch.Generator,
    at_once: int = BATCH,
    workers: DistributedContext = ALONE,
    norm: Norm = "linf",
) -> tuple[list[nn.Linear], tuple[OperatingPoint, ...]]:
    """Fit a linear probe with each strength of a config, and measure its accuracies on held-out images.

    Args:
        classifier: the encoder and which of its features the probes read; its head changes.
        probe_NF: features of the images on which the probes are fitted.
        probe_labels_N: their classes.
        held_out_NF: features of the held-out images.
        held_out: the held-out images, in a stratified order.
        classes: number of classes.
        config: strengths and settings of the fit.
        attack: attack that defines robust accuracy.
        epsilon: radius of its ball.
        attacked_images: number of held-out images that are attacked, the first ones.
        generator: generator of the attack's random numbers, on the CPU.
        at_once: number of images that the encoder processes at once.
        workers: workers that share the attacked images; all get the same result.
        norm: norm of its ball.

    Returns:
        A head and an operating point for each strength, in the order of the config.

    Raises:
        FloatingPointError: if logits are not finite.
        AttackInvalid: if the attack's result cannot be trusted.
    """
    heads = fit_converged(probe_NF, probe_labels_N.to(probe_NF.device), classes=classes, config=config)
    workers.as_first(parameter for head in heads for parameter in head.parameters())
    probe_NL = right_of(heads, probe_NF, probe_labels_N)
    right_NL = right_of(heads, held_out_NF, held_out.labels_N)
    left_NL = still_right_of(
        classifier,
        heads,
        held_out,
        right_NL[:attacked_images],
        attack,
        epsilon=epsilon,
        norm=norm,
        generator=generator,
        at_once=at_once,
        workers=workers,
    )
    accuracies = (rows_NL.double().mean(0).tolist() for rows_NL in (probe_NL, right_NL, left_NL))
    return heads, tuple(map(OperatingPoint, config.l2, *accuracies))

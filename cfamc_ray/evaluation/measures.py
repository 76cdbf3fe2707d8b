"""Measures of an encoder besides its accuracies.

Shapes: N images, of which b are processed at once, V crops of an image, C/H/W channels/height/width, F features.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.measures import (
    AdversarialConfig,
    AdversarialDistanceConfig,
    CropDistanceConfig,
    EffectiveRankConfig,
    LocalLipschitzConfig,
)
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.attacks import random_start
from cfamc_ray.evaluation.batches import encode
from cfamc_ray.evaluation.classifier import LinearClassifier, as_pixels, draw_views, in_batches
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.method.perturbation import ascend, project

STEP_RATIO = 2.5
"""Sum of the sizes of an ascent's steps, in radii."""


class Measure(Protocol):
    """A measure of an encoder; `MeasureConfig.build` gives one."""

    def __call__(
        self,
        encoder: SelfSupervisedEncoder,
        images: LabelledImages,
        *,
        epsilon: float,
        norm: Norm,
        at_once: int,
        workers: DistributedContext,
    ) -> float:
        """Compute the measure.

        Args:
            encoder: frozen encoder, in evaluation mode.
            images: validation images, in a stratified order.
            epsilon: radius of the evaluation's ball.
            norm: norm of that ball.
            at_once: number of images that the encoder should process at once.
            workers: workers that share the images; all call this and must return the same number.
        """


class EffectiveRank:
    """Effective rank of the features of the images (RankMe, arXiv 2210.02885)."""

    def __init__(self, config: EffectiveRankConfig) -> None:
        self.config = config

    def __call__(
        self,
        encoder: SelfSupervisedEncoder,
        images: LabelledImages,
        *,
        epsilon: float,
        norm: Norm,
        at_once: int,
        workers: DistributedContext,
    ) -> float:
        """See `Measure`; the result is between 1 and the smaller of the numbers of images and features."""
        reader = LinearClassifier(encoder, nn.Identity(), features=self.config.features)
        return effective_rank(encode(reader, images.images_NCHW, at_once=at_once, workers=workers))


def effective_rank(features_NF: torch.Tensor) -> float:
    """Exponential of the entropy of the singular values, normalised to sum 1; 0 if all features are 0."""
    values_K = torch.linalg.svdvals(features_NF.double())
    shares_K = values_K / values_K.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(shares_K).sum().exp()) if values_K.any() else 0.0


class LargestChange:
    """Mean over images of the largest change of their features that an ascent in the ball finds.

    Args:
        config: features, number of images, and steps.
        change_of: change of each image (N) from the changed and the original features_NF.
        per_pixel_value: whether the mean is divided by the radius of the ball.
    """

    def __init__(
        self, config: AdversarialConfig, change_of: Callable[[Tensor, Tensor], Tensor], *, per_pixel_value: bool
    ) -> None:
        self.config, self.change_of, self.per_pixel_value = config, change_of, per_pixel_value

    @classmethod
    def local_lipschitz(cls, config: LocalLipschitzConfig) -> "LargestChange":
        """Create the measure that `LocalLipschitzConfig` defines."""
        return cls(config, relative_change, per_pixel_value=True)

    @classmethod
    def adversarial_distance(cls, config: AdversarialDistanceConfig) -> "LargestChange":
        """Create the measure that `AdversarialDistanceConfig` defines."""
        return cls(config, cosine_distance, per_pixel_value=False)

    def __call__(
        self,
        encoder: SelfSupervisedEncoder,
        images: LabelledImages,
        *,
        epsilon: float,
        norm: Norm,
        at_once: int,
        workers: DistributedContext,
    ) -> float:
        """See `Measure`; NaN for a Lipschitz constant in a ball of radius 0."""
        config = self.config
        grey_CHW = torch.full(images.images_NCHW.shape[1:], 0.5).to(next(encoder.parameters()))
        start_CHW = random_start(grey_CHW, epsilon=epsilon, norm=norm, generator=torch.Generator().manual_seed(0))
        features_of = partial(encoder.features, kind=config.features)

        def largest(images_bCHW: Tensor) -> Tensor:
            pixels_bCHW = as_pixels(images_bCHW, encoder)
            start_bCHW = start_CHW.expand_as(pixels_bCHW)
            return largest_change(
                features_of, pixels_bCHW, start_bCHW, self.change_of, epsilon=epsilon, norm=norm, steps=config.steps
            )

        chosen_NCHW = images.images_NCHW[: config.images]
        mean = in_batches(largest, chosen_NCHW, at_once=at_once, workers=workers).mean()
        return float(mean / epsilon if self.per_pixel_value else mean)


class CropDistance:
    """Mean cosine distance of pairs of crops, as `CropDistanceConfig` defines it."""

    def __init__(self, config: CropDistanceConfig) -> None:
        self.config = config

    def __call__(
        self,
        encoder: SelfSupervisedEncoder,
        images: LabelledImages,
        *,
        epsilon: float,
        norm: Norm,
        at_once: int,
        workers: DistributedContext,
    ) -> float:
        """See `Measure`; the result is from 0 to 2."""
        height, width = images.images_NCHW.shape[-2:]
        crops = CropsConfig(views=self.config.views)
        views = draw_views(crops, height=height, width=width, generator=torch.Generator().manual_seed(0))
        reader = LinearClassifier(encoder, nn.Identity(), views=replace(views, size=height))

        def distances(images_bCHW: Tensor) -> Tensor:
            crops_bVCHW = reader.crops_of(as_pixels(images_bCHW, encoder))
            features_XF = encoder.features(crops_bVCHW.flatten(0, 1), kind=self.config.features)
            return pair_distance(features_XF.unflatten(0, crops_bVCHW.shape[:2]))

        chosen_NCHW = images.images_NCHW[: self.config.images]
        distance_N = in_batches(distances, chosen_NCHW, at_once=max(at_once // self.config.views, 1), workers=workers)
        return float(distance_N.mean())


def relative_change(changed_NF: Tensor, features_NF: Tensor) -> Tensor:
    """Length of the change of each feature vector divided by its own length; 0 if both are 0."""
    length_N: Tensor = torch.linalg.vector_norm(features_NF, dim=-1)
    change_N: Tensor = torch.linalg.vector_norm(changed_NF - features_NF, dim=-1)
    return change_N / length_N.clamp_min(torch.finfo(features_NF.dtype).tiny)


def cosine_distance(changed_NF: Tensor, features_NF: Tensor) -> Tensor:
    """One minus the cosine similarity of each pair of feature vectors."""
    similarity_N: Tensor = F.cosine_similarity(changed_NF, features_NF, dim=-1)
    return 1 - similarity_N


def pair_distance(features_NVF: Tensor) -> Tensor:
    """Mean cosine distance over all pairs of different crops of each image, (N,)."""
    V = features_NVF.shape[1]
    z_NVF = F.normalize(features_NVF, dim=-1)
    pairs_N: Tensor = z_NVF.sum(1).square().sum(-1) - z_NVF.square().sum((1, 2))
    return 1 - pairs_N / (V * (V - 1))


def largest_change(
    features_of: Callable[[Tensor], Tensor],
    images_NCHW: Tensor,
    start_NCHW: Tensor,
    change_of: Callable[[Tensor, Tensor], Tensor],
    *,
    epsilon: float,
    steps: int,
    norm: Norm = "linf",
) -> Tensor:
    """The largest change of the features of each image at the points of an ascent in the ball.

    Args:
        features_of: maps pixels to features_NF, each image independently of the others.
        images_NCHW: pixels in [0, 1].
        start_NCHW: first perturbation; the change has no gradient at zero.
        change_of: change of each image (N) from the changed and the original features_NF.
        epsilon: radius of the ball.
        steps: number of steps of steepest ascent.
        norm: norm of the ball.

    Returns:
        change_N, at least that of the start.
    """
    features_NF = features_of(images_NCHW)
    largest_N = torch.zeros(len(images_NCHW), dtype=images_NCHW.dtype, device=images_NCHW.device)
    delta_NCHW = project(start_NCHW, images_NCHW, epsilon=epsilon, norm=norm)
    for _ in range(steps):
        perturbed_NCHW = (images_NCHW + delta_NCHW).requires_grad_()
        with torch.enable_grad():
            change_N = change_of(features_of(perturbed_NCHW), features_NF)
            (gradient_NCHW,) = torch.autograd.grad(change_N.sum(), perturbed_NCHW)
        largest_N = torch.maximum(largest_N, change_N.detach())
        delta_NCHW = ascend(
            delta_NCHW, gradient_NCHW, images_NCHW, step_size=STEP_RATIO * epsilon / steps, epsilon=epsilon, norm=norm
        )
    return torch.maximum(largest_N, change_of(features_of(images_NCHW + delta_NCHW), features_NF))

"""Measures of an encoder besides its accuracies.

Shapes: N images, F features.
"""

from typing import Protocol

import torch
from torch import nn

from cfamc_ray.config.measures import EffectiveRankConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.batches import encode
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import DistributedContext


class Measure(Protocol):
    """A measure of an encoder; `MeasureConfig.build` gives one."""

    def __call__(
        self, encoder: SelfSupervisedEncoder, images: LabelledImages, *, at_once: int, workers: DistributedContext
    ) -> float:
        """Compute the measure.

        Args:
            encoder: frozen encoder, in evaluation mode.
            images: validation images.
            at_once: number of images that the encoder should process at once.
            workers: workers that share the images; all call this and must return the same number.
        """


class EffectiveRank:
    """Effective rank of the features of the images (RankMe, arXiv 2210.02885)."""

    def __init__(self, config: EffectiveRankConfig) -> None:
        self.config = config

    def __call__(
        self, encoder: SelfSupervisedEncoder, images: LabelledImages, *, at_once: int, workers: DistributedContext
    ) -> float:
        """See `Measure`; the result is between 1 and the smaller of the numbers of images and features."""
        reader = LinearClassifier(encoder, nn.Identity(), features=self.config.features)
        return effective_rank(encode(reader, images.images_NCHW, at_once=at_once, workers=workers))


def effective_rank(features_NF: torch.Tensor) -> float:
    """Exponential of the entropy of the singular values, normalised to sum 1; 0 if all features are 0."""
    values_K = torch.linalg.svdvals(features_NF.double())
    shares_K = values_K / values_K.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(shares_K).sum().exp()) if values_K.any() else 0.0

"""The evaluation in a search: linear probes, their clean and their robust accuracy on validation images.

Shapes: N images, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.batches import check_weights, encode, frozen, images_at_once
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.operating_points import UNKNOWN, OperatingPoint, balanced, fit_points
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE, DistributedContext


@dataclass(frozen=True)
class Scores:
    """The operating points of an encoder, with the numbers of images behind them."""

    points: tuple[OperatingPoint, ...]
    """One for each L2 strength of the probe, in the order of the config; empty without an evaluation."""
    validation_images: int
    attacked_images: int
    measures: Mapping[str, float] = field(default_factory=dict)
    """Further measures of `evaluation.measures`, by name."""
    heads: Sequence[nn.Linear] = field(default=(), compare=False)
    """The linear probes of the points."""

    @property
    def balanced(self) -> OperatingPoint:
        """The point with the largest sum of clean and robust accuracy; NaN without an evaluation."""
        return balanced(self.points) if self.points else UNKNOWN

    def metrics(self) -> dict[str, Any]:
        """The metrics of an epoch that they give, by the names of `TrialMetrics`."""
        point = self.balanced
        return {
            "clean_accuracy": point.clean_accuracy,
            "robust_accuracy": point.robust_accuracy,
            "probe_accuracy": point.probe_accuracy,
            "operating_points": [asdict(each) for each in self.points],
            "validation_images": self.validation_images,
            "attacked_images": self.attacked_images,
            "measures": self.measures,
        }


def search_scores(
    encoder: SelfSupervisedEncoder,
    probe_images: LabelledImages,
    validation_images: LabelledImages,
    *,
    classes: int,
    config: EvaluationConfig,
    generator: torch.Generator,
    last: bool = True,
    workers: DistributedContext = ALONE,
) -> Scores:
    """Fit linear probes on the frozen encoder; measure the accuracies of each, clean and under the attack.

    Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: encoder to evaluate, the same on all workers; its mode is restored.
        probe_images: labelled training images.
        validation_images: held-out images in a stratified order, as `load_splits` gives them; the first
            `attacked_images` of them are attacked.
        classes: number of classes.
        config: probe, attack and its ball.
        generator: generator of the attack's random numbers, on the CPU.
        last: whether this is the evaluation after the last epoch, which attacks more images.
        workers: workers that share the images; all call this with the same arguments, and get the same scores.

    Raises:
        FloatingPointError: on all workers, if the encoder's features are not finite.
        AttackInvalid: on all workers, if the attack's result cannot be trusted.
        ValueError: if the attack cannot compute in the type of the weights.
    """
    check_weights(encoder, [config.attack])
    side = probe_images.images_NCHW.shape[-1]
    at_once = config.batch_images or images_at_once(encoder, side, features=config.head.features)
    with frozen(encoder):
        classifier = LinearClassifier(encoder, nn.Identity(), features=config.head.features)
        probe_NF, validation_NF = (
            encode(classifier, images.images_NCHW, at_once=at_once, workers=workers)
            for images in (probe_images, validation_images)
        )
        attacked = min(config.attacked(last=last), len(validation_images))
        heads, points = fit_points(
            classifier,
            probe_NF,
            probe_images.labels_N,
            validation_NF,
            validation_images,
            classes=classes,
            config=config.head,
            attack=config.attack,
            epsilon=config.epsilon,
            norm=config.norm,
            attacked_images=attacked,
            generator=generator,
            at_once=at_once,
            workers=workers,
        )
        return Scores(
            points=points,
            validation_images=len(validation_images),
            attacked_images=attacked,
            measures={
                measure.component_name(): measure.build()(
                    encoder,
                    validation_images,
                    epsilon=config.epsilon,
                    norm=config.norm,
                    at_once=at_once,
                    workers=workers,
                )
                for measure in config.measures
            },
            heads=heads,
        )

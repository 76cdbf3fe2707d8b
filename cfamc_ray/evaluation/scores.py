"""The evaluation in a search: a linear probe, clean accuracy and robust accuracy on validation images.

Shapes: N images, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.batches import (
    check_weights,
    encode,
    frozen,
    images_at_once,
    predicted_right,
    still_right,
)
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.probe import fit_converged
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE, DistributedContext


@dataclass(frozen=True)
class Scores:
    """Accuracies as fractions, with their numbers of images."""

    probe_accuracy: float
    """Accuracy on the images on which the probe was fitted."""
    clean_accuracy: float
    robust_accuracy: float
    validation_images: int
    attacked_images: int
    measures: Mapping[str, float] = field(default_factory=dict)
    """Further measures of `evaluation.measures`, by name."""


def search_scores(
    encoder: SelfSupervisedEncoder,
    probe_images: LabelledImages,
    validation_images: LabelledImages,
    *,
    classes: int,
    config: EvaluationConfig,
    generator: torch.Generator,
    workers: DistributedContext = ALONE,
) -> Scores:
    """Fit a linear probe on the frozen encoder; measure its accuracy, clean and under the attack.

    Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: encoder to evaluate, whose mode is restored; all workers copy the buffers of the first.
        probe_images: labelled training images.
        validation_images: held-out images in a stratified order, as `load_splits` gives them; the first
            `attacked_images` of them are attacked.
        classes: number of classes.
        config: probe, attack and its radius.
        generator: generator of the attack's random numbers, on the CPU.
        workers: workers that share the images; all call this with the same arguments, and get the same scores.

    Raises:
        FloatingPointError: on all workers, if the encoder's features are not finite.
        AttackInvalid: on all workers, if the attack's result cannot be trusted.
        ValueError: if the attack cannot compute in the type of the weights.
    """
    check_weights(encoder, [config.attack])
    side = probe_images.images_NCHW.shape[-1]
    at_once = config.batch_images or images_at_once(encoder, side, features=config.head.features)
    workers.as_first(encoder.buffers())  # batch norm's statistics come from each worker's own last minibatch
    with frozen(encoder):
        classifier = LinearClassifier(encoder, nn.Identity(), features=config.head.features)
        features_NF = encode(classifier, probe_images.images_NCHW, at_once=at_once, workers=workers)
        labels_N = probe_images.labels_N.to(features_NF.device)
        classifier.head = fit_converged(features_NF, labels_N, classes=classes, config=config.head)
        workers.as_first(classifier.head.parameters())
        right_N = predicted_right(classifier, validation_images, at_once=at_once, workers=workers)
        attacked = min(config.attacked_images, len(validation_images))
        attack = partial(
            config.attack.build(),
            classifier,
            epsilon=config.epsilon,
            generator=generator,
            at_once=at_once,
            workers=workers,
        )
        left_N = still_right(
            classifier,
            validation_images,
            right_N[:attacked],
            attack,
            at_once=at_once,
            group=attacked if config.attack.whole_sample else BATCH,
            workers=workers,
        )
        return Scores(
            probe_accuracy=(classifier.head(features_NF).argmax(-1) == labels_N).double().mean().item(),
            clean_accuracy=right_N.double().mean().item(),
            robust_accuracy=left_N.double().mean().item(),
            validation_images=len(validation_images),
            attacked_images=attacked,
            measures={
                measure.component_name(): measure.build()(encoder, validation_images, at_once=at_once, workers=workers)
                for measure in config.measures
            },
        )

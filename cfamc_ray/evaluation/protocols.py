"""Run a protocol on a finished encoder and the test split: fit a head, and measure clean and robust accuracy.

Shapes: N images, C/H/W channels/height/width, F features.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.batches import (
    check_weights,
    encode,
    frozen,
    images_at_once,
    predicted_right,
    still_right,
)
from cfamc_ray.evaluation.classifier import EachCrop, LinearClassifier, Views, attacked_features, draw_views
from cfamc_ray.evaluation.measurement import Measurement
from cfamc_ray.evaluation.probe import default_head, fit_converged, train_probe
from cfamc_ray.method.encoder import SelfSupervisedEncoder

OnProgress = Callable[[str, float, int, int], None]
"""Called with the label of an attack, its radius, and the numbers of finished and of all images."""


def run_protocol(
    encoder: SelfSupervisedEncoder,
    training: LabelledImages,
    test: LabelledImages,
    *,
    classes: int,
    protocol: ProtocolConfig,
    crops: CropsConfig,
    on_progress: OnProgress = lambda *_: None,
) -> Iterator[Measurement]:
    """Fit a head on the frozen encoder and evaluate it: first clean, then at each radius, attack by attack.

    Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: encoder to evaluate, whose mode is restored.
        training: labelled images on which the head is fitted.
        test: test images in a stratified order, as `load_test` gives them; the protocol's counts take the first ones.
        classes: number of classes.
        protocol: head, attacks and sample sizes.
        crops: size, scale and ratio of the crops, if the protocol reads crops.
        on_progress: called before and after each batch of an attack.

    Raises:
        FloatingPointError: if the encoder's features are not finite.
        AttackInvalid: if an attack's result cannot be trusted.
        ValueError: if an attack cannot compute in the type of the weights.
    """
    check_weights(encoder, protocol.attacks)
    generator = torch.Generator().manual_seed(protocol.seed)
    H, W = test.images_NCHW.shape[-2:]
    several = crops.model_copy(update={"views": protocol.crops})
    views = draw_views(several, height=H, width=W, generator=generator) if protocol.crops else None
    images = test.take(torch.arange(min(protocol.images, len(test))))
    at_once = protocol.batch_images or images_at_once(
        encoder, crops.size if views else W, features=protocol.head.features, crops=protocol.crops or 1
    )
    with frozen(encoder):
        classifier = fit_classifier(
            encoder,
            training,
            classes=classes,
            protocol=protocol,
            views=views,
            generator=generator,
            at_once=at_once,
        )
        right_N = predicted_right(classifier, images, at_once=at_once)
        yield Measurement.clean(len(images), int(right_N.sum()))
        for epsilon in protocol.epsilons:
            yield from _attacked(classifier, images, right_N, epsilon, protocol, generator, at_once, on_progress)


def measure_on(
    data: DataConfig,
    encoder: SelfSupervisedEncoder,
    *,
    protocol: ProtocolConfig,
    crops: CropsConfig,
    device: torch.device,
    on_progress: OnProgress = lambda *_: None,
) -> Iterator[Measurement]:
    """Run a protocol with a data set's probe images and its test split, in float32.

    Args:
        data: the data set.
        encoder: encoder to evaluate.
        protocol: head, attacks and sample sizes.
        crops: size, scale and ratio of the crops, if the protocol reads crops.
        device: device of the computation.
        on_progress: as in `run_protocol`.

    Raises:
        InputError: if the data cannot be read.
        FloatingPointError, AttackInvalid: as `run_protocol`.
    """
    splits = load_splits(data)
    return run_protocol(
        encoder.to(device, torch.float32),  # whatever its training precision: attacks need at least float32
        splits.probe,
        load_test(data, images=protocol.images),
        classes=splits.classes,
        protocol=protocol,
        crops=crops,
        on_progress=on_progress,
    )


def fit_classifier(
    encoder: SelfSupervisedEncoder,
    training: LabelledImages,
    *,
    classes: int,
    protocol: ProtocolConfig,
    views: Views | None,
    generator: torch.Generator,
    at_once: int = BATCH,
) -> LinearClassifier:
    """Fit the protocol's head on the frozen encoder.

    Args:
        encoder: frozen encoder.
        training: labelled images.
        classes: number of classes.
        protocol: protocol of which the head and the seed are used.
        views: crops that the head reads; None for the whole image.
        generator: generator of the order of the images and the starts of attacks, on the CPU.
        at_once: number of images that the encoder processes at once.
    """
    config = protocol.head
    classifier = LinearClassifier(encoder, nn.Identity(), features=config.features, views=views)
    features_NF = encode(classifier, training.images_NCHW, at_once=at_once)
    labels_N = training.labels_N.to(features_NF.device)
    if config.fit == "converged":
        (head,) = fit_converged(features_NF, labels_N, classes=classes, config=config)
    else:
        head = default_head(features_NF, classes, seed=protocol.seed)
    classifier.head = head
    attack = partial(config.attack.build(), classifier, epsilon=config.epsilon, generator=generator, at_once=at_once)
    train_probe(
        head,
        config,
        features_NF,
        labels_N,
        generator=generator,
        attacked_features=attacked_features(classifier, training, attack, at_once=at_once),
    )
    return classifier


def _attacked(
    classifier: LinearClassifier,
    images: LabelledImages,
    right_N: Tensor,
    epsilon: float,
    protocol: ProtocolConfig,
    generator: torch.Generator,
    at_once: int,
    on_progress: OnProgress,
) -> Iterator[Measurement]:
    """Measure the attacks at one radius; each attacks only images that are still classified correctly."""
    target = EachCrop(classifier) if protocol.attack_each_crop else classifier
    before: tuple[str, ...] = ()
    for config, count in protocol.stages(epsilon):
        right_N = still_right(
            target,
            images,
            right_N[:count],
            partial(config.build(), target, epsilon=epsilon, generator=generator, at_once=at_once),
            at_once=at_once,
            group=count if config.whole_sample else BATCH,
            on_progress=partial(on_progress, config.label, epsilon),
        )
        yield Measurement(config.id, config.label, before, epsilon, len(right_N), int(right_N.sum()))
        before = (*before, config.id)

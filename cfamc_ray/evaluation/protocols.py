"""Run a protocol on a finished encoder and the test split: fit a head, and measure clean and robust accuracy.

Shapes: N images, of which n are held out of the fit, C/H/W channels/height/width, F features.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.protocol import SELECTION, ProtocolConfig
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.data.stratification import stratified_order
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
from cfamc_ray.evaluation.operating_points import OperatingPoint, balanced, fit_points
from cfamc_ray.evaluation.probe import default_head, fit_converged, train_probe
from cfamc_ray.method.encoder import SelfSupervisedEncoder

OnProgress = Callable[[str, float, int, int], None]
"""Called with the label of an attack, its radius, and the numbers of finished and of all images."""
OnCurve = Callable[[Sequence[OperatingPoint]], None]
"""Called with the operating points on held-out training images, of which the balanced one is chosen."""
FOLDS = 5
"""One of so many parts of the training images is held out to choose the L2 strength."""
ATTACKED_HELD_OUT = 1_000
"""Largest number of held-out images that are attacked."""


def run_protocol(
    encoder: SelfSupervisedEncoder,
    training: LabelledImages,
    test: LabelledImages,
    *,
    classes: int,
    protocol: ProtocolConfig,
    crops: CropsConfig,
    on_progress: OnProgress = lambda *_: None,
    on_curve: OnCurve = lambda _: None,
) -> Iterator[Measurement]:
    """Fit a head on the frozen encoder and evaluate it: first clean, then at each radius, attack by attack.

    If the head has several L2 strengths, one is chosen first (`held_out_points`); the results are those of a protocol
    with this strength alone. Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: encoder to evaluate, whose mode is restored.
        training: labelled images on which the head is fitted.
        test: test images in a stratified order, as `load_test` gives them; the protocol's counts take the first ones.
        classes: number of classes.
        protocol: head, attacks and sample sizes.
        crops: size, scale and ratio of the crops, if the protocol reads crops.
        on_progress: called before and after each batch of an attack.
        on_curve: called once if the L2 strength is chosen, before the first measurement.

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
            on_curve=on_curve,
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
    on_curve: OnCurve = lambda _: None,
) -> Iterator[Measurement]:
    """Run a protocol with a data set's probe images and its test split, in float32.

    Args:
        data: the data set.
        encoder: encoder to evaluate.
        protocol: head, attacks and sample sizes.
        crops: size, scale and ratio of the crops, if the protocol reads crops.
        device: device of the computation.
        on_progress: as in `run_protocol`.
        on_curve: as in `run_protocol`.

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
        on_curve=on_curve,
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
    on_curve: OnCurve = lambda _: None,
) -> LinearClassifier:
    """Fit the protocol's head on the frozen encoder.

    Of several L2 strengths the balanced one is chosen on held-out training images, and fitted on all of them.

    Args:
        encoder: frozen encoder.
        training: labelled images.
        classes: number of classes.
        protocol: protocol of which the head and the seed are used.
        views: crops that the head reads; None for the whole image.
        generator: generator of the order of the images and the starts of attacks, on the CPU.
        at_once: number of images that the encoder processes at once.
        on_curve: called once if the L2 strength is chosen.
    """
    config = protocol.head
    classifier = LinearClassifier(encoder, nn.Identity(), features=config.features, views=views)
    features_NF = encode(classifier, training.images_NCHW, at_once=at_once)
    labels_N = training.labels_N.to(features_NF.device)
    if config.selects_l2:
        points = held_out_points(classifier, training, features_NF, classes=classes, protocol=protocol, at_once=at_once)
        on_curve(points)
        config = config.model_copy(update={"l2": (balanced(points).l2,)})
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


def held_out_points(
    classifier: LinearClassifier,
    training: LabelledImages,
    features_NF: Tensor,
    *,
    classes: int,
    protocol: ProtocolConfig,
    at_once: int = BATCH,
) -> tuple[OperatingPoint, ...]:
    """Measure the L2 strengths of a protocol's head on a stratified fifth of the training images, held out of the fit.

    At most 1,000 of them are attacked, as whole images. The random numbers are drawn apart from those of the protocol,
    so what follows is the same whether its strength was chosen or given.

    Args:
        classifier: frozen encoder; its head changes.
        training: labelled images.
        features_NF: their features.
        classes: number of classes.
        protocol: protocol of which the head's strengths, the first radius and the seed are used.
        at_once: number of images that the encoder processes at once.

    Returns:
        A point for each strength.
    """
    order_N, held_out = stratified_order(training.labels_N, protocol.seed), math.ceil(len(training) / FOLDS)
    held_out_n, fitted_n = order_N[:held_out], order_N[held_out:]
    _, points = fit_points(
        classifier,
        features_NF[fitted_n.to(features_NF.device)],
        training.labels_N[fitted_n],
        features_NF[held_out_n.to(features_NF.device)],
        training.take(held_out_n),
        classes=classes,
        config=protocol.head,
        attack=SELECTION,
        epsilon=protocol.epsilons[0],
        attacked_images=ATTACKED_HELD_OUT,
        generator=torch.Generator().manual_seed(protocol.seed),
        at_once=at_once,
    )
    return points


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
            whole_sample=config.whole_sample,
            on_progress=partial(on_progress, config.label, epsilon),
        )
        yield Measurement(config.id, config.label, before, epsilon, len(right_N), int(right_N.sum()))
        before = (*before, config.id)

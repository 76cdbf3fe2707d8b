"""Fit the head of a protocol on a frozen encoder, with an L2 strength that is given or chosen on held-out images.

Shapes: N images, of which n are held out of the fit, F features.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cfamc_ray.config.protocol import SELECTION, ProtocolConfig
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.stratification import stratified_order
from cfamc_ray.evaluation.batches import encode
from cfamc_ray.evaluation.classifier import LinearClassifier, Views, attacked_features
from cfamc_ray.evaluation.operating_points import OperatingPoint, balanced, fit_points
from cfamc_ray.evaluation.probe import default_head, fit_converged, train_probe
from cfamc_ray.method.encoder import SelfSupervisedEncoder

OnCurve = Callable[[Sequence[OperatingPoint]], None]
"""Called with the operating points on held-out training images, of which the balanced one is chosen."""
FOLDS = 5
"""One of so many parts of the training images is held out to choose the L2 strength."""
ATTACKED_HELD_OUT = 1_000
"""Largest number of held-out images that are attacked."""


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
    ball = config.attack.ball(config.epsilon, config.norm)
    attack = partial(config.attack.build(), classifier, **ball, generator=generator, at_once=at_once)
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
        protocol: protocol of which the head's strengths, the norm, the first radius and the seed are used.
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
        norm=protocol.norm,
        attacked_images=ATTACKED_HELD_OUT,
        generator=torch.Generator().manual_seed(protocol.seed),
        at_once=at_once,
    )
    return points

"""Run a protocol on a finished encoder and the test split: fit a head or fine-tune both, and measure accuracies.

Shapes: N images, C/H/W channels/height/width.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.data.corruptions import corrupt
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.data.stratification import balanced_draw
from cfamc_ray.evaluation.batches import check_weights, frozen, images_at_once, predicted_right, still_right
from cfamc_ray.evaluation.classifier import EachCrop, LinearClassifier, draw_views
from cfamc_ray.evaluation.finetuning import adapt_norms, fine_tune, restored
from cfamc_ray.evaluation.fitting import OnCurve, fit_classifier
from cfamc_ray.evaluation.measurement import Measurement
from cfamc_ray.method.encoder import SelfSupervisedEncoder

OnProgress = Callable[[str, float, int, int], None]
"""Called with the label of an attack, its radius, and the numbers of finished and of all images."""
OnLosses = Callable[[Sequence[float]], None]
"""Called with the mean training loss of each epoch of fine-tuning."""


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
    on_losses: OnLosses = lambda _: None,
) -> Iterator[Measurement]:
    """Fit a head on the encoder and evaluate both: first clean, then corruptions, then attack by attack at each radius.

    If the head has several L2 strengths, one is chosen first (`held_out_points`); the results are those of a protocol
    with this strength alone. With `finetune`, the encoder is then trained with the head. With `labels_per_class`, all
    this is repeated for each draw. Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: encoder to evaluate, whose mode and weights are restored.
        training: labelled images on which the head is fitted.
        test: test images in a stratified order, as `load_test` gives them; the protocol's counts take the first ones.
        classes: number of classes.
        protocol: head, fine-tuning, corruptions, attacks and sample sizes.
        crops: size, scale and ratio of the crops, if the protocol reads crops.
        on_progress: called before and after each batch of an attack, each epoch of fine-tuning and each corruption.
        on_curve: called once if the L2 strength is chosen, before the first measurement.
        on_losses: called after fine-tuning, once for each draw.

    Raises:
        InputError: if a class has fewer training images than `labels_per_class`, or images are too small to corrupt.
        FloatingPointError: if the encoder's features or the loss of fine-tuning are not finite.
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
    tuned = protocol.finetune.layers != "none"
    for draw, drawn in enumerate(_draws(training, classes, protocol)):
        with frozen(encoder), restored(encoder) if tuned else nullcontext():
            if tuned:
                headless = LinearClassifier(encoder, nn.Identity(), features=protocol.head.features, views=views)
                adapt_norms(headless, drawn, protocol.finetune)
            classifier = fit_classifier(
                encoder,
                drawn,
                classes=classes,
                protocol=protocol,
                views=views,
                generator=generator,
                at_once=at_once,
                on_curve=on_curve,
            )
            if tuned:
                tuning = partial(on_progress, "fine-tuning, epochs", 0.0)
                on_losses(
                    fine_tune(
                        classifier,
                        drawn,
                        protocol.finetune,
                        norm=protocol.norm,
                        generator=generator,
                        at_once=at_once,
                        on_progress=tuning,
                    )
                )
            for found in _measured(classifier, images, protocol, generator, at_once, on_progress):
                yield replace(found, draw=draw)


def _draws(training: LabelledImages, classes: int, protocol: ProtocolConfig) -> Iterator[LabelledImages]:
    """The training images of each draw of few labels; all of them, once, without `labels_per_class`."""
    few = protocol.labels_per_class
    if few is None:
        yield training
        return
    smallest, label = torch.bincount(training.labels_N, minlength=classes).min(0)
    if few > smallest:
        raise InputError(
            f"labels_per_class {few}: of the {len(training)} training images on which heads are fitted, only "
            f"{smallest} belong to class {label}: set labels_per_class to at most {smallest}"
        )
    for draw in range(protocol.draws):
        yield training.take(balanced_draw(training.labels_N, few, protocol.seed, draw))


def measure_on(
    data: DataConfig,
    encoder: SelfSupervisedEncoder,
    *,
    protocol: ProtocolConfig,
    crops: CropsConfig,
    device: torch.device,
    on_progress: OnProgress = lambda *_: None,
    on_curve: OnCurve = lambda _: None,
    on_losses: OnLosses = lambda _: None,
) -> Iterator[Measurement]:
    """Run a protocol with a data set's probe images and its test split, in float32.

    Args:
        data: the data set.
        encoder: encoder to evaluate.
        protocol: head, fine-tuning, corruptions, attacks and sample sizes.
        crops: size, scale and ratio of the crops, if the protocol reads crops.
        device: device of the computation.
        on_progress: as in `run_protocol`.
        on_curve: as in `run_protocol`.
        on_losses: as in `run_protocol`.

    Raises:
        InputError: if the data cannot be read, and as `run_protocol`.
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
        on_losses=on_losses,
    )


def _measured(
    classifier: LinearClassifier,
    images: LabelledImages,
    protocol: ProtocolConfig,
    generator: torch.Generator,
    at_once: int,
    on_progress: OnProgress,
) -> Iterator[Measurement]:
    """Measure a classifier: clean, corrupted and attacked."""
    right_N = predicted_right(classifier, images, at_once=at_once)
    yield Measurement.clean(len(images), int(right_N.sum()))
    corruptions = list(itertools.product(protocol.corruptions, protocol.severities))
    for done, (kind, severity) in enumerate(corruptions):
        on_progress("corruptions", 0.0, done, len(corruptions))
        corrupted_NCHW = corrupt(images.images_NCHW[:], kind, severity, seed=protocol.seed)
        corrupted = LabelledImages(corrupted_NCHW, images.labels_N)
        corrupted_right_N = predicted_right(classifier, corrupted, at_once=at_once)
        yield Measurement.corrupted(kind, severity, len(images), int(corrupted_right_N.sum()))
    for epsilon in protocol.epsilons:
        yield from _attacked(classifier, images, right_N, epsilon, protocol, generator, at_once, on_progress)


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
        ball = config.ball(epsilon, protocol.norm)
        right_N = still_right(
            target,
            images,
            right_N[:count],
            partial(config.build(), target, **ball, generator=generator, at_once=at_once),
            at_once=at_once,
            whole_sample=config.whole_sample,
            on_progress=partial(on_progress, config.label, epsilon),
        )
        yield Measurement(config.id, config.label, before, epsilon, protocol.norm, len(right_N), int(right_N.sum()))
        before = (*before, config.id)

"""What is measured together, under a stated threat model: by a search after an epoch, or by a protocol at the end.

Shapes: N images, of which an attack is handed b at once, C/H/W channels/height/width, F features.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.protocol import AttackConfig, HeadConfig, ProtocolConfig
from cfamc_ray.cost.work import BATCH, batch_images
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.attacks import Logits, pgd
from cfamc_ray.evaluation.autoattack import autoattack
from cfamc_ray.evaluation.classifier import (
    Attack,
    EachCrop,
    LinearClassifier,
    Views,
    as_pixels,
    attacked_features,
    draw_views,
    in_batches,
)
from cfamc_ray.evaluation.probe import default_head, fit_probe, train_probe
from cfamc_ray.method.encoder import InChunks, SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE, Workers


@dataclass(frozen=True)
class Scores:
    """Accuracies as fractions, each beside the number of images that it is of."""

    probe_accuracy: float
    """On the images that the probe was fitted on."""
    clean_accuracy: float
    robust_accuracy: float
    validation_images: int
    attacked_images: int


def search_scores(
    encoder: SelfSupervisedEncoder,
    probe_images: LabelledImages,
    validation_images: LabelledImages,
    *,
    classes: int,
    config: EvaluationConfig,
    generator: torch.Generator,
    workers: Workers = ALONE,
) -> Scores:
    """Fit a linear probe on the frozen encoder; count what it gets right, and what PGD leaves right.

    Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: is left in the mode it was in; of several workers all take over the first one's buffers.
        probe_images: labelled training images.
        validation_images: held out, in an order of which every prefix is a fair sample, as `load_splits` gives them;
            the first `attack_images` of them are attacked.
        classes: number of classes.
        config: probe and threat model.
        generator: of the attack's starts, on the CPU.
        workers: that share the images; all of them call this with the same arguments, and have the same scores.

    Raises:
        FloatingPointError: where the encoder's features are not finite; on all workers.
    """
    head_config = HeadConfig(
        features=config.features,
        l2=config.probe_l2,
        tolerance=config.probe_tolerance,
        iterations=config.probe_iterations,
    )
    side = probe_images.images_NCHW.shape[-1]
    at_once = config.batch_images or _batch_images(encoder, side, features=config.features)
    workers.as_first(encoder.buffers())  # each has batch norm's statistics from its own last minibatch
    with _frozen(encoder):
        classifier = LinearClassifier(encoder, nn.Identity(), features=config.features)
        features_NF = encode(classifier, probe_images.images_NCHW, at_once=at_once, workers=workers)
        labels_N = probe_images.labels_N.to(features_NF.device)
        classifier.head = _converged(features_NF, labels_N, classes, head_config)
        workers.as_first(classifier.head.parameters())
        right_N = predicted_right(classifier, validation_images, at_once=at_once, workers=workers)
        attacked = min(config.attack_images, len(validation_images))
        attack = partial(
            pgd,
            classifier,
            epsilon=config.attack_epsilon,
            steps=config.attack_steps,
            step_size=config.attack_step_ratio * config.attack_epsilon,
            restarts=config.attack_restarts,
            generator=generator,
            every_step=True,
            at_once=at_once,
            workers=workers,
        )
        left_N = still_right(
            classifier, validation_images, right_N[:attacked], attack, at_once=at_once, workers=workers
        )
        return Scores(
            probe_accuracy=(classifier.head(features_NF).argmax(-1) == labels_N).double().mean().item(),
            clean_accuracy=right_N.double().mean().item(),
            robust_accuracy=left_N.double().mean().item(),
            validation_images=len(validation_images),
            attacked_images=attacked,
        )


OnProgress = Callable[[str, float, int, int], None]
"""Is told of an attack at a radius how many images it has dealt with, and of how many."""


@dataclass(frozen=True)
class Measurement:
    """What a classifier got right of a sample of the test images, under one attack."""

    attack: str
    epsilon: float
    """Radius of the l∞ ball; 0 without an attack."""
    images: int
    right: int

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % for the accuracy on all images, of which these are a sample."""
        low, high = binomtest(self.right, self.images).proportion_ci(method="wilson")
        return float(low), float(high)


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
    """Fit a head on the frozen encoder and measure it: first clean, then each radius, attack by attack.

    Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: is left in the mode it was in.
        training: labelled images that the head is fitted on.
        test: images that it is measured on, in an order of which every prefix is a fair sample, as `load_test` gives
            them; the protocol's counts take the first ones.
        classes: number of classes.
        protocol: what is measured.
        crops: size, scale and ratio of the crops, where the protocol reads crops.
        on_progress: is called before and after each batch of an attack.

    Raises:
        FloatingPointError: where the encoder's features are not finite.
        AttackInvalid: where AutoAttack doubts its own result.
        ValueError: where AutoAttack is asked for and the weights are not float32.
    """
    weight_type = next(encoder.parameters()).dtype
    if protocol.autoattack_images and weight_type != torch.float32:
        raise ValueError(f"autoattack_images must be 0 for weights in {weight_type}: AutoAttack computes in float32")
    generator = torch.Generator().manual_seed(protocol.seed)
    H, W = test.images_NCHW.shape[-2:]
    several = crops.model_copy(update={"views": protocol.crops})
    views = draw_views(several, height=H, width=W, generator=generator) if protocol.crops else None
    images = test.take(torch.arange(min(protocol.images, len(test))))
    at_once = protocol.batch_images or _batch_images(
        encoder, crops.size if views else W, features=protocol.head.features, crops=protocol.crops or 1
    )
    with _frozen(encoder):
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
        yield Measurement("none", 0.0, len(images), int(right_N.sum()))
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
        encoder: to be measured.
        protocol: what is measured.
        crops: size, scale and ratio of the crops, where the protocol reads crops.
        device: where it is computed.
        on_progress: as for `run_protocol`.

    Raises:
        InputError: where the data cannot be read.
        FloatingPointError, AttackInvalid: as `run_protocol` does.
    """
    splits = load_splits(data)
    return run_protocol(
        encoder.to(device, torch.float32),  # whatever it was trained in: attacks need float32 at least
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
    """The frozen encoder under the protocol's head.

    Args:
        encoder: frozen.
        training: labelled images.
        classes: number of classes.
        protocol: of which the head and the seed count.
        views: crops that the head reads; None for the whole image.
        generator: of the order of the images and the starts of attacks, on the CPU.
        at_once: images that the encoder sees at once.
    """
    config = protocol.head
    classifier = LinearClassifier(encoder, nn.Identity(), features=config.features, views=views)
    features_NF = encode(classifier, training.images_NCHW, at_once=at_once)
    labels_N = training.labels_N.to(features_NF.device)
    if config.fit == "converged":
        head = _converged(features_NF, labels_N, classes, config)
    else:
        head = default_head(features_NF, classes, seed=protocol.seed)
    classifier.head = head
    attack = _pgd(classifier, config.attack, config.attack_epsilon, generator, at_once)
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
    """What stays right at one radius; each attack sees what those before it left."""
    target = EachCrop(classifier) if protocol.attack_each_crop else classifier
    descent = _pgd(target, protocol.attack, epsilon, generator, at_once)
    attacks: dict[str, tuple[int, int, Attack]] = {}
    attacks[f"PGD-{protocol.attack.steps}"] = protocol.attacked_images, BATCH, descent
    if protocol.margin_check:
        attacks["+ PGD on the margin"] = protocol.attacked_images, BATCH, partial(descent, loss="margin")
    if epsilon in protocol.autoattack_epsilons and protocol.autoattack_images:
        # What it draws depends on its batches, so these stay, and the network sees them piece by piece.
        network = InChunks(target, at_once, activation_checkpointing=True) if at_once < BATCH else target
        standard = partial(autoattack, network, epsilon=epsilon, seed=protocol.seed, batch_images=BATCH)
        # All at once: it makes its own batches, and its last check compares accuracies.
        attacks["+ AutoAttack"] = protocol.autoattack_images, protocol.autoattack_images, standard
    for name, (count, group, attack) in attacks.items():
        told = partial(on_progress, name, epsilon)
        right_N = still_right(target, images, right_N[:count], attack, at_once=at_once, group=group, on_progress=told)
        yield Measurement(name, epsilon, len(right_N), int(right_N.sum()))


def _pgd(
    logits_of: Logits, config: AttackConfig, epsilon: float, generator: torch.Generator, at_once: int
) -> partial[Tensor]:
    return partial(pgd, logits_of, epsilon=epsilon, generator=generator, at_once=at_once, **config.model_dump())


def _batch_images(encoder: SelfSupervisedEncoder, side: int, *, features: str, crops: int = 1) -> int:
    number_bytes = next(encoder.parameters()).element_size()
    return batch_images(encoder.config, side, features=features, crops=crops, number_bytes=number_bytes)


def _converged(features_NF: Tensor, labels_N: Tensor, classes: int, config: HeadConfig) -> nn.Linear:
    return fit_probe(
        features_NF,
        labels_N,
        classes=classes,
        l2=config.l2,
        tolerance=config.tolerance,
        iterations=config.iterations,
    )


@contextmanager
def _frozen(encoder: SelfSupervisedEncoder) -> Iterator[None]:
    """Evaluation mode, no gradients for weights, and whole float32 products on GPUs, which would else round to TF32."""
    was_training = encoder.training
    requires_gradient = [parameter.requires_grad for parameter in encoder.parameters()]
    encoder.eval().requires_grad_(False)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        encoder.train(was_training)
        for parameter, required in zip(encoder.parameters(), requires_gradient, strict=True):
            parameter.requires_grad_(required)


def encode(
    classifier: LinearClassifier, images_NCHW: Tensor, *, at_once: int = BATCH, workers: Workers = ALONE
) -> Tensor:
    """features_NF of uint8 images, which must be finite, on the encoder's device; so many images at once."""
    features_NF = in_batches(
        lambda batch: classifier.features_of(as_pixels(batch, classifier)),
        images_NCHW,
        at_once=at_once,
        workers=workers,
    )
    if not features_NF.isfinite().all():
        raise FloatingPointError("the encoder's features are not finite")
    return features_NF


def predicted_right(
    classifier: LinearClassifier, images: LabelledImages, *, at_once: int = BATCH, workers: Workers = ALONE
) -> Tensor:
    """right_N: which images the classifier gets right, on the CPU; all logits must be finite; so many at once."""
    logits_NK = in_batches(
        lambda batch: classifier(as_pixels(batch, classifier)), images.images_NCHW, at_once=at_once, workers=workers
    ).cpu()
    if not logits_NK.isfinite().all():
        raise FloatingPointError("the classifier's logits are not finite")
    return logits_NK.argmax(-1) == images.labels_N


def still_right(
    target: LinearClassifier | EachCrop,
    images: LabelledImages,
    right_N: Tensor,
    attack: Attack,
    *,
    at_once: int = BATCH,
    group: int = BATCH,
    workers: Workers = ALONE,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Tensor:
    """Which of the first N images stay right under an attack; what is wrong without one needs none.

    Args:
        target: what is attacked.
        images: at least N.
        right_N: which are right so far.
        attack: inputs of the target and labels of a batch to adversarial inputs.
        at_once: images that the target sees at once, once they are attacked.
        group: images that the attack is handed at once.
        workers: that share what the target sees; the attack shares its work by itself.
        on_progress: is told before the first group and after each how many images are done, and of how many.
    """
    left_N = torch.zeros_like(right_N)
    done, total = 0, int(right_N.sum())
    on_progress(done, total)
    for positions_b in right_N.nonzero().squeeze(1).split(group):
        if len(positions_b) == 0:
            continue
        pixels_bCHW = as_pixels(images.images_NCHW[positions_b], target)
        labels_b = images.labels_N[positions_b].to(pixels_bCHW.device)
        adversarial_b = attack(target.inputs(pixels_bCHW), labels_b)
        logits_bK = in_batches(target, adversarial_b, at_once=at_once, workers=workers)
        left_N[positions_b] = ((logits_bK.argmax(-1) == labels_b) & logits_bK.isfinite().all(-1)).cpu()
        done += len(positions_b)
        on_progress(done, total)
    return left_N

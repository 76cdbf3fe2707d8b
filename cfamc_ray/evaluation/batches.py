"""A frozen encoder and its classifier on many images, batch by batch: features, what is right, what stays right.

Shapes: N images, of which an attack is given b at once, C/H/W channels/height/width, F features, K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cfamc_ray.config.attacks import AttackConfig
from cfamc_ray.cost.work import BATCH, batch_images
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.classifier import BoundAttack, EachCrop, LinearClassifier, as_pixels, in_batches
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE, DistributedContext


def images_at_once(encoder: SelfSupervisedEncoder, side: int, *, features: str, crops: int = 1) -> int:
    """How many images an evaluation gives an encoder at once, unless a config says so; arguments as `batch_images`."""
    number_bytes = next(encoder.parameters()).element_size()
    return batch_images(encoder.config, side, features=features, crops=crops, number_bytes=number_bytes)


def check_weights(encoder: SelfSupervisedEncoder, attacks: Iterable[AttackConfig]) -> None:
    """Refuse attacks that cannot compute in the type of an encoder's weights.

    Raises:
        ValueError: for the first of them.
    """
    dtype = next(encoder.parameters()).dtype
    for attack in attacks:
        if attack.needs_float32 and dtype != torch.float32:
            raise ValueError(f"attack {attack.id} needs weights in torch.float32, not in {dtype}")


@contextmanager
def frozen(encoder: SelfSupervisedEncoder) -> Iterator[None]:
    """Evaluation mode, no gradients for weights, and full float32 products on GPUs, which might round to TF32."""
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
    classifier: LinearClassifier, images_NCHW: Tensor, *, at_once: int = BATCH, workers: DistributedContext = ALONE
) -> Tensor:
    """Features of uint8 images.

    Args:
        classifier: with the encoder.
        images_NCHW: uint8 images.
        at_once: images that the encoder sees at once.
        workers: that share the images; all of them have all features.

    Returns:
        features_NF on the encoder's device.

    Raises:
        FloatingPointError: where features are not finite.
    """
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
    classifier: LinearClassifier, images: LabelledImages, *, at_once: int = BATCH, workers: DistributedContext = ALONE
) -> Tensor:
    """Which images the classifier gets right.

    Args:
        classifier: on its device.
        images: uint8 images and their labels.
        at_once: images that the encoder sees at once.
        workers: that share the images; all of them have the whole result.

    Returns:
        right_N, booleans on the CPU.

    Raises:
        FloatingPointError: where logits are not finite.
    """
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
    attack: BoundAttack,
    *,
    at_once: int = BATCH,
    group: int = BATCH,
    workers: DistributedContext = ALONE,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Tensor:
    """Which of the first N images stay right under an attack; those that are wrong already are not attacked.

    Args:
        target: what is attacked.
        images: at least N.
        right_N: which are right so far, booleans on the CPU.
        attack: inputs of the target and labels of a batch to adversarial inputs.
        at_once: adversarial images that the target classifies at once.
        group: images that the attack is given at once.
        workers: that share the classification; the attack shares its work by itself.
        on_progress: called before the first group and after each with the number of images done and of all.

    Returns:
        right_N, booleans on the CPU.
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

"""Features and predictions of a frozen encoder and its classifier on many images, batch by batch.

Shapes: N images, of which an attack gets b at once, C/H/W channels/height/width, F features, K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cfamc_ray.config.attacks import AttackConfig
from cfamc_ray.cost.work import BATCH, attack_images, batch_images
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.mapped import Images
from cfamc_ray.evaluation.classifier import BoundAttack, EachCrop, LinearClassifier, as_pixels, in_batches
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE, DistributedContext


def images_at_once(encoder: SelfSupervisedEncoder, side: int, *, features: str, crops: int = 1) -> int:
    """Default number of images that an encoder processes at once in an evaluation; arguments as in `batch_images`."""
    number_bytes = next(encoder.parameters()).element_size()
    return batch_images(encoder.config, side, features=features, crops=crops, number_bytes=number_bytes)


def images_of_a_call(target: LinearClassifier | EachCrop, images: LabelledImages) -> int:
    """Number of images in one call of an attack on a classifier of images, or of their crops."""
    input_1 = target.inputs(as_pixels(images.images_NCHW[:1], target))
    return attack_images(input_1.numel(), number_bytes=input_1.element_size())


def check_weights(encoder: SelfSupervisedEncoder, attacks: Iterable[AttackConfig]) -> None:
    """Refuse attacks that cannot compute in the type of an encoder's weights.

    Raises:
        ValueError: if there is such an attack.
    """
    dtype = next(encoder.parameters()).dtype
    for attack in attacks:
        if attack.needs_float32 and dtype != torch.float32:
            raise ValueError(f"attack {attack.id} needs weights in torch.float32, not in {dtype}")


@contextmanager
def frozen(encoder: SelfSupervisedEncoder) -> Iterator[None]:
    """Use evaluation mode, no gradients of weights, and full float32 products on GPUs, instead of TF32."""
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
    classifier: LinearClassifier, images_NCHW: Images, *, at_once: int = BATCH, workers: DistributedContext = ALONE
) -> Tensor:
    """Compute features of uint8 images.

    Args:
        classifier: classifier that contains the encoder.
        images_NCHW: uint8 images.
        at_once: number of images that the encoder processes at once.
        workers: workers that share the images; all get all features.

    Returns:
        features_NF on the encoder's device.

    Raises:
        FloatingPointError: if features are not finite.
    """
    features_NF = in_batches(
        lambda batch: classifier.features_of(as_pixels(batch, classifier)),
        images_NCHW,
        at_once=at_once,
        workers=workers,
    )
    if not torch.stack(torch.aminmax(features_NF)).isfinite().all():  # no copy of the features, as isfinite would make
        raise FloatingPointError("the encoder's features are not finite")
    return features_NF


def predicted_right(
    classifier: LinearClassifier, images: LabelledImages, *, at_once: int = BATCH, workers: DistributedContext = ALONE
) -> Tensor:
    """Find which images are classified correctly.

    Args:
        classifier: classifier, on its device.
        images: uint8 images and their labels.
        at_once: number of images that the encoder processes at once.
        workers: workers that share the images; all get the complete result.

    Returns:
        right_N, booleans on the CPU.

    Raises:
        FloatingPointError: if logits are not finite.
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
    whole_sample: bool = False,
    workers: DistributedContext = ALONE,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Tensor:
    """Find which of the first N images are classified correctly under an attack; wrong images are not attacked.

    Args:
        target: model to attack.
        images: images and their labels, at least N.
        right_N: which images are classified correctly so far, booleans on the CPU.
        attack: maps inputs of the target and labels of a batch to adversarial inputs.
        at_once: number of adversarial images that the target classifies at once.
        whole_sample: whether the attack gets all images in one call.
        workers: workers that share the classification; the attack shares its own work.
        on_progress: called before the first group and after each, with the numbers of finished and of all images.

    Returns:
        right_N, booleans on the CPU.
    """
    left_N = torch.zeros_like(right_N)
    group = len(right_N) if whole_sample else images_of_a_call(target, images)
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

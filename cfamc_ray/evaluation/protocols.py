"""What is measured together, under a stated threat model.

Shapes: N images, C/H/W channels/height/width, F features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfamc_ray.config.trial import EvaluationConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.attacks import pgd
from cfamc_ray.evaluation.probe import fit_probe
from cfamc_ray.method.encoder import SelfSupervisedEncoder

BATCH = 250
"""Images that are encoded or attacked at once."""


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
) -> Scores:
    """Fit a linear probe on the frozen encoder; count what it gets right, and what PGD leaves right.

    Everything is computed in the type of the weights, without autocast.

    Args:
        encoder: is left in the mode it was in.
        probe_images: labelled training images.
        validation_images: held out; the first `attack_images` of them are attacked.
        classes: number of classes.
        config: probe and threat model.
        generator: of the attack's starts, on the CPU.

    Raises:
        FloatingPointError: where the encoder's features are not finite.
    """
    with _frozen(encoder):
        features_NF = encode(encoder, probe_images.images_NCHW, config.features)
        if not features_NF.isfinite().all():
            raise FloatingPointError("the encoder's features are not finite")
        labels_N = probe_images.labels_N.to(features_NF.device)
        head = fit_probe(
            features_NF,
            labels_N,
            classes=classes,
            l2=config.probe_l2,
            tolerance=config.probe_tolerance,
            iterations=config.probe_iterations,
        )
        attacked = min(config.attack_images, len(validation_images))
        return Scores(
            probe_accuracy=(head(features_NF).argmax(-1) == labels_N).double().mean().item(),
            clean_accuracy=_accuracy(encoder, head, validation_images, config.features),
            robust_accuracy=_robust_accuracy(encoder, head, validation_images, attacked, config, generator),
            validation_images=len(validation_images),
            attacked_images=attacked,
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


@torch.no_grad()
def encode(encoder: SelfSupervisedEncoder, images_NCHW: Tensor, kind: str) -> Tensor:
    """features_NF of uint8 images, on the encoder's device."""
    return torch.cat([encoder.features(as_pixels(batch, encoder), kind=kind) for batch in images_NCHW.split(BATCH)])


def as_pixels(images_NCHW: Tensor, encoder: nn.Module) -> Tensor:
    """uint8 images as pixels in [0, 1], in the type and on the device of the encoder's weights."""
    weight = next(encoder.parameters())
    return images_NCHW.to(weight.device).to(weight.dtype) / 255


def _accuracy(encoder: SelfSupervisedEncoder, head: nn.Linear, images: LabelledImages, kind: str) -> float:
    predicted_N = head(encode(encoder, images.images_NCHW, kind)).argmax(-1).cpu()
    return float((predicted_N == images.labels_N).double().mean())


def _robust_accuracy(
    encoder: SelfSupervisedEncoder,
    head: nn.Linear,
    images: LabelledImages,
    attacked: int,
    config: EvaluationConfig,
    generator: torch.Generator,
) -> float:
    def logits_of(x_NCHW: Tensor) -> Tensor:
        return head(encoder.features(x_NCHW, kind=config.features))  # type: ignore[no-any-return]

    right = 0
    for start in range(0, attacked, BATCH):
        batch = slice(start, min(start + BATCH, attacked))
        pixels_NCHW = as_pixels(images.images_NCHW[batch], encoder)
        labels_N = images.labels_N[batch].to(pixels_NCHW.device)
        with torch.no_grad():
            # What is wrong without an attack needs none.
            correct_N = logits_of(pixels_NCHW).argmax(-1) == labels_N
        pixels_NCHW, labels_N = pixels_NCHW[correct_N], labels_N[correct_N]
        if len(labels_N) == 0:
            continue
        adversarial_NCHW = pgd(
            logits_of,
            pixels_NCHW,
            labels_N,
            epsilon=config.attack_epsilon,
            steps=config.attack_steps,
            step_size=config.attack_step_ratio * config.attack_epsilon,
            restarts=config.attack_restarts,
            generator=generator,
        )
        with torch.no_grad():
            right += int((logits_of(adversarial_NCHW).argmax(-1) == labels_N).sum())
    return right / attacked

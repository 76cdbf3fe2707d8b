"""Fine-tuning of an encoder with its head on labels, on clean or on attacked images.

Shapes: N images, of which B make a minibatch, C/H/W channels/height/width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.finetune import FinetuneConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.classifier import BoundAttack, LinearClassifier, as_pixels
from cfamc_ray.method.norms import estimating_norms
from cfamc_ray.method.optimizer import build_optimizer, build_scheduler
from cfamc_ray.method.transfer import to_device


@contextmanager
def restored(encoder: nn.Module) -> Iterator[None]:
    """Give an encoder its weights and statistics back, whatever happens to them meanwhile."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    try:
        yield
    finally:
        encoder.load_state_dict(before)


@torch.no_grad()
def adapt_norms(classifier: LinearClassifier, training: LabelledImages, config: FinetuneConfig) -> None:
    """Replace the statistics of the batch norms that are trained by means over minibatches of the training images.

    In fine-tuning a batch norm uses the statistics of its minibatch. A head that is fitted on features with the
    encoder's own statistics, which are of crops or, of initial weights, of nothing, would not suit these.

    Args:
        classifier: classifier whose encoder, in evaluation mode, is changed.
        training: labelled images.
        config: what is trained, and the size of a minibatch.
    """
    with estimating_norms(_trained_modules(classifier, config)):
        for indices_B in torch.arange(len(training)).tensor_split(_minibatches(training, config)):
            classifier.features_of(as_pixels(training.images_NCHW[indices_B], classifier))


def fine_tune(
    classifier: LinearClassifier,
    training: LabelledImages,
    config: FinetuneConfig,
    *,
    norm: Norm,
    generator: torch.Generator,
    at_once: int = BATCH,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[float]:
    """Train an encoder and its head in place.

    Args:
        classifier: encoder and head, which are in evaluation mode and need no gradients before and after.
        training: labelled images.
        config: what is trained, and how.
        norm: norm of the ball in adversarial training.
        generator: generator of the order of the images and the starts of attacks, on the CPU.
        at_once: number of images that an attack processes at once.
        on_progress: called before the first epoch and after each, with the numbers of finished and of all epochs.

    Returns:
        The mean training loss of each epoch, on the images as they are trained on.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    modules, batches = _trained_modules(classifier, config), _minibatches(training, config)
    modules.requires_grad_(True)
    optimizer = build_optimizer(
        modules.parameters(), lr=config.lr, weight_decay=config.weight_decay, trust_coefficient=None
    )
    schedule = build_scheduler(optimizer, horizon=config.epochs * batches)
    ball = config.attack.ball(config.epsilon, norm)
    attack = partial(config.attack.build(), classifier, **ball, generator=generator, at_once=at_once)
    losses = []
    on_progress(0, config.epochs)
    for epoch in range(config.epochs):
        sums = []  # on the device, so that the host need not wait for each minibatch
        for indices_B in torch.randperm(len(training), generator=generator).tensor_split(batches):
            pixels_BCHW = as_pixels(training.images_NCHW[indices_B], classifier)
            labels_B = to_device(training.labels_N[indices_B], pixels_BCHW.device)
            if config.training == "adversarial":
                pixels_BCHW = _attacked(modules, attack, pixels_BCHW, labels_B)
            modules.train()
            with torch.enable_grad():
                loss = F.cross_entropy(classifier(pixels_BCHW), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            modules.eval()
            sums.append(loss.detach() * len(indices_B))
        losses.append(float(torch.stack(sums).sum()) / len(training))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of fine-tuning is not finite in epoch {epoch + 1}: lower finetune.lr")
        on_progress(epoch + 1, config.epochs)
    modules.requires_grad_(False)
    return losses


def _minibatches(training: LabelledImages, config: FinetuneConfig) -> int:
    """Number of minibatches of an epoch, of which none is smaller than asked unless there are fewer images."""
    return max(1, len(training) // config.batch_images)


def _trained_modules(classifier: LinearClassifier, config: FinetuneConfig) -> nn.ModuleList:
    encoder = classifier.encoder
    backbone = encoder.backbone if config.layers == "all" else encoder.backbone.last_block
    after = [encoder.prefeature] if classifier.features == "prefeature" else []
    return nn.ModuleList([backbone, *after, classifier.head])


def _attacked(modules: nn.Module, attack: BoundAttack, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """Attack a minibatch; meanwhile no weights need gradients, so that the attack computes none."""
    modules.requires_grad_(False)
    attacked_BCHW = attack(pixels_BCHW, labels_B)
    modules.requires_grad_(True)
    return attacked_BCHW

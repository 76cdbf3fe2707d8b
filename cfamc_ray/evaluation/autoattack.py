"""AutoAttack (arXiv 2003.01690), the authors' implementation in the package pyautoattack.

Shapes: N images, C/H/W channels/height/width, K classes.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cfamc_ray.config.attacks import AutoAttackConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.cost.work import BATCH
from cfamc_ray.evaluation.attacks import AttackInvalid, Logits
from cfamc_ray.method.encoder import InChunks
from cfamc_ray.method.parallel import ALONE, DistributedContext

_MEANING = {
    "check_randomized": "the logits change from call to call, so a perturbation may not break an image again",
    "check_range_output": "the gradients of probabilities vanish where the classifier is confident: pass it logits",
    "check_dynamic": "a classifier that computes gradients to classify needs a dedicated attack",
    "check_zero_gradients": "gradient-based attacks cannot change such an image, and count it as robust",
    "check_square_sr": "the gradient-free attack broke images that gradient-based attacks missed, so these mislead",
}
"""Meaning of a warning for the classifier, by the check of AutoAttack that issues it."""

_NORMS = {"linf": "Linf", "l2": "L2"}
"""AutoAttack's names of the norms."""


def autoattack(
    logits_of: Logits,
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    epsilon: float,
    seed: int,
    batch_images: int = 250,
    version: Literal["standard", "plus", "rand"] = "standard",
    norm: Norm = "linf",
) -> Tensor:
    """Adversarial images from AutoAttack in a ball; each attack gets images that are still classified correctly.

    The standard version is APGD on the cross-entropy, APGD on the targeted DLR loss, targeted FAB and Square with 5000
    queries. It targets the 9 likeliest wrong classes, or all of them if there are fewer than 10 classes. With 3
    classes the targeted DLR loss is undefined and the untargeted one is used instead; with 2 neither is defined, and
    APGD runs only on the cross-entropy, without a check for vanishing gradients.

    Every batch draws the same random numbers, so the result depends on the seed and on `batch_images`; the random state
    of the CPU and of the images' device does not change.

    Args:
        logits_of: the classifier, in evaluation mode; if weights require gradients, FAB accumulates them.
        images_NCHW: pixels in [0, 1], float32, square; the attack runs on their device.
        labels_N: true classes.
        epsilon: radius of the ball.
        seed: seed of all random numbers.
        batch_images: number of images that are attacked at once.
        version: version of AutoAttack; `rand` is for randomised classifiers, `plus` is slower.
        norm: norm of the ball.

    Returns:
        For each image the first misclassified version, or the image itself if there is none or it was already wrong.

    Raises:
        AttackInvalid: if one of AutoAttack's own checks fails; the check that only Square breaks images must find at
            least two.
        ValueError: if the images are not float32.
    """
    if images_NCHW.dtype != torch.float32:
        raise ValueError(f"images_NCHW: {images_NCHW.dtype}, but AutoAttack computes in torch.float32")
    if len(images_NCHW) == 0:
        return images_NCHW.clone()
    from pyautoattack import AutoAttack  # noqa: PLC0415 (only finalists are attacked so)

    # Only of this device: asking another GPU for its state would open a context on it.
    devices = [images_NCHW.device] if images_NCHW.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), _warnings_raised(len(images_NCHW)):
        attack = AutoAttack(
            logits_of, device=images_NCHW.device, eps=epsilon, norm=_NORMS[norm], seed=seed, version=version
        )
        _suit_classes(attack, logits_of(images_NCHW[:1]).shape[-1])
        # It views tensors in a way that channels_last does not allow.
        adversarial_NCHW, _ = attack.run_standard_evaluation(
            images_NCHW.contiguous(), labels_N, batch_size=batch_images
        )
    return adversarial_NCHW  # type: ignore[no-any-return]


class StandardAutoAttack:
    """AutoAttack's standard version; its random numbers depend only on the generator's seed, not on its state."""

    def __init__(self, config: AutoAttackConfig) -> None:
        self.config = config

    def __call__(
        self,
        logits_of: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilon: float,
        generator: torch.Generator,
        at_once: int,
        workers: DistributedContext = ALONE,
        norm: Norm = "linf",
    ) -> Tensor:
        """See `autoattack`; workers do not share the attack, since its checks compare accuracies on all images."""
        # Random numbers depend on the batches, so batches are fixed, and the network processes them in chunks.
        network = InChunks(logits_of, at_once, activation_checkpointing=True) if at_once < BATCH else logits_of
        seed = generator.initial_seed()
        return autoattack(network, images, labels, epsilon=epsilon, norm=norm, seed=seed, batch_images=BATCH)


def _suit_classes(attack: Any, classes: int) -> None:
    """Limit targets to the number of wrong classes, and losses to those that are defined for this number of logits."""
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    if classes < 4:
        names = dict.fromkeys("apgd-dlr" if name == "apgd-t" else name for name in attack.attacks_to_run)
        attack.attacks_to_run = [name for name in names if name != "apgd-dlr" or classes == 3]


class _Raise(logging.Handler):
    """Raises AutoAttack's warnings as `AttackInvalid`; `images` is the number of attacked images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images

    def emit(self, record: logging.LogRecord) -> None:
        # `_suit_classes` handles the number of classes; this check would refuse any DLR loss with 3.
        if record.funcName == "check_n_classes":
            return
        warning, _, _ = record.getMessage().partition(" See flags_doc.md")
        # Its limit is 0.2 % of the images: with fewer than 500, a single image would exceed it, which proves nothing.
        lost = re.search(r"decreased the robust accuracy of ([\d.]+)%", warning)
        if lost and float(lost[1]) / 100 * self.images < 1.5:
            return
        meaning = _MEANING.get(record.funcName or "", "see its documentation")
        raise AttackInvalid(f"AutoAttack warns: {warning} That is: {meaning}.")


@contextmanager
def _warnings_raised(images: int) -> Iterator[None]:
    """Raise AutoAttack's logged warnings, and suppress its other messages."""
    from pyautoattack import checks  # noqa: PLC0415

    logger, handler, trace = logging.getLogger("auto-attack"), _Raise(images), sys.gettrace()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    # Calls are counted over the whole process: one dynamic classifier would affect the checks of all later ones.
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(trace)  # the check removes it, or leaves its own on if the classifier raises
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)

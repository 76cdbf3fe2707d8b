"""The work of a trial, known before it runs: FLOPs are counted, not measured."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.counting import crop_pass_flops, forward_flops, kept_numbers, pixel_gradient
from cfamc_ray.data.sources import read_source


def training_flops(config: TrialConfig, epochs: int | None = None) -> int:
    """FLOPs of the matrix products of a trial's training, two for each multiplication and addition.

    Every crop pass that updates weights is a forward and a full backward pass; a separate attack pass needs only the
    gradient of the input, about two thirds of that, unless its weight gradients are kept. Activation checkpointing
    costs another forward pass. Each of these passes of a minibatch has a loss, whose products count, too.

    Args:
        config: config of the trial.
        epochs: number of the first epochs to count; None for all.
    """
    stages = config.until(config.pretraining.epochs if epochs is None else epochs)
    return sum(length * _flops_per_epoch(stage) for length, stage in stages)


def _flops_per_epoch(config: TrialConfig) -> int:
    update, attack = crop_pass_flops(config.encoder, config.crops.size)
    attack_passes = config.attack_passes_per_epoch
    attack_flops = update if config.perturbation.attack_gradients_of_weights else attack
    if config.pretraining.activation_checkpointing:
        again = forward_flops(config.encoder, config.crops.size)
        update, attack_flops = update + again, attack_flops + again
    encoding = (config.crop_passes_per_epoch - attack_passes) * update + attack_passes * attack_flops
    V, B, D = config.crops.views, config.pretraining.batch_images, config.encoder.embedding_width
    return encoding + config.losses_per_epoch * round(config.loss.flops(V, B, D))


class TrainingWork(NamedTuple):
    """The work of a trial's training, all workers together, and of its evaluation."""

    flops: float
    """FLOPs of the matrix products."""
    activations: float
    """Count of numbers that all forward passes store for the backward passes."""
    kept: float
    """Count of numbers that are stored at once, including the crops, their perturbation and its gradient."""
    parameters: int
    """Number of parameters of the encoder."""
    evaluation_flops: float
    """Largest FLOPs of one evaluation, all workers together."""
    evaluation_kept: float
    """Largest count of numbers that an evaluation holds at once on each worker."""


def training_work(config: TrialConfig) -> TrainingWork:
    """Count the work of a trial."""
    size, pretraining = config.crops.size, config.pretraining
    views = max(stage.crops.views for _, stage in config.schedule)
    each, parameters = kept_numbers(config.encoder, size)
    at_once = min(pretraining.views_at_once or views, views) if pretraining.activation_checkpointing else views
    pixels = 4 * 3 * size**2  # a crop, its perturbation, their sum and its gradient
    evaluation = evaluation_work(config)
    return TrainingWork(
        flops=training_flops(config),
        activations=config.crop_passes * each,
        kept=pretraining.batch_images * (at_once * each + views * pixels),
        parameters=parameters,
        evaluation_flops=evaluation.flops,
        evaluation_kept=evaluation.kept,
    )


BATCH = 250
"""Most images in one call of an attack, whose random starts are drawn together; also the most that the encoder
processes at once."""
INPUT_BYTES = 125 * 10**6
"""Largest size of the inputs in one call of an attack, which holds about six times that; it limits the images of a call
from 205 pixels a side on."""
BATCH_BYTES = 2 * 10**9
"""Largest size of the activations that an attack on one batch stores for its backward passes; it limits the batch for
large images or encoders."""


def batch_images(config: EncoderConfig, side: int, *, features: str, crops: int = 1, number_bytes: int = 4) -> int:
    """Number of images that an evaluation encodes or attacks at once: as many as `BATCH_BYTES` hold, 1 to `BATCH`.

    Args:
        config: config of the encoder.
        side: height and width in pixels of the encoder's input.
        features: features that the head reads, ``prefeature`` or ``backbone``.
        crops: number of crops of an image that the encoder processes.
        number_bytes: bytes of an activation.
    """
    each = crops * pixel_gradient(config, side, features).kept * number_bytes
    return min(max(BATCH_BYTES // each, 1), BATCH)


def attack_images(numbers: int, *, number_bytes: int = 4) -> int:
    """Number of images in one call of an attack: as many as `INPUT_BYTES` hold, 1 to `BATCH`.

    Args:
        numbers: count of numbers of an input: the pixels of an image, or of its crops.
        number_bytes: bytes of a number.
    """
    return min(max(INPUT_BYTES // (numbers * number_bytes), 1), BATCH)


class EvaluationWork(NamedTuple):
    """Upper bound on the work of one evaluation of a trial; all zero if there is none."""

    flops: float
    """FLOPs of encoding the probe's and the validation images and of the attack, if no image breaks before its last
    step; the fit of the probe is not counted."""
    batch_images: int
    kept: float
    """Count of numbers held at once, by encoding, by the attack or by the fit of the probe."""


def evaluation_work(config: TrialConfig) -> EvaluationWork:
    """Count the work of one evaluation."""
    data, evaluation = config.judged_on, config.evaluation
    if not data.validation_images:
        return EvaluationWork(0.0, 0, 0.0)
    side, features = image_side(data), evaluation.head.features
    one = pixel_gradient(config.encoder, side, features)
    attacked, passes = min(evaluation.attacked_images, data.validation_images), evaluation.attack.passes()
    # An attack on all heads at once classifies what it finds itself.
    attacks, again = (1, 0) if evaluation.attack.shares_heads else (len(evaluation.head.l2), 1)
    size = _number_bytes(config)
    at_once = evaluation.batch_images or batch_images(config.encoder, side, features=features, number_bytes=size)
    of_attack = (passes.forward + again) * one.forward_flops + passes.backward * (one.flops - one.forward_flops)
    of_probe, of_validation = (count * one.features for count in (data.probe_images, data.validation_images))
    in_a_call = min(attack_images(3 * side**2, number_bytes=size), attacked)
    pixels = 6 * in_a_call * 3 * side**2  # images, starts and the attack's results so far
    return EvaluationWork(
        flops=(data.probe_images + data.validation_images) * one.forward_flops + attacks * attacked * of_attack,
        batch_images=at_once,
        # All features are held to the end. While batches of them are joined, those of the validation images are held
        # twice; the fit also holds those of the probe standardised, and an intermediate.
        kept=of_probe + of_validation + max(of_validation, 2 * of_probe, pixels + min(at_once, attacked) * one.kept),
    )


def _number_bytes(config: TrialConfig) -> int:
    return 8 if config.pretraining.precision == "float64" else 4


ASSUMED_SIDE = 32
"""Height and width in pixels of images that are not on this machine."""


def image_side(data: DataConfig) -> int:
    """Height and width in pixels of a data set's images; `ASSUMED_SIDE` if they are not on this machine.

    Args:
        data: config of the data set, which is read if its keys do not define the size.
    """
    if data.side is not None:
        return data.side
    with suppress(InputError):
        return int(read_source(data).train.images_NCHW.shape[-1])
    return ASSUMED_SIDE


def scale_remark(size: int, data: DataConfig) -> str:
    """A warning if crops and whole images differ so much in size that objects have another scale.

    Args:
        size: height and width in pixels of the training crops.
        data: data set whose whole images are evaluated.

    Returns:
        A sentence; empty if there is nothing to warn about.
    """
    side = image_side(data)
    if max(size, side) <= 2 * min(size, side):
        return ""
    return (
        f"The encoder trains on crops of {size} pixels a side (crops.size) but is evaluated on whole images of {side}, "
        "where objects have another scale: this alone makes accuracies low. Choose sizes that differ by a factor of at "
        "most 2"
    )


class StudyCost(NamedTuple):
    """Cost of one trial, over points of a study's space."""

    crop_passes_low: int
    crop_passes_mean: float
    crop_passes_high: int
    flops_mean: float
    """Mean training FLOPs."""
    evaluation_flops_mean: float
    """Mean of the largest FLOPs of a trial's evaluations."""
    batches: tuple[int, int]
    """Smallest and largest number of images of an evaluation's batch."""
    evaluation_bytes: float
    """Largest number of bytes that an evaluation holds at once besides the encoder."""

    def evaluation(self, trials: int = 1) -> str:
        """The cost of evaluations as a dry run shows it; empty if there are none.

        Args:
            trials: number of trials of the study.
        """
        if not self.evaluation_flops_mean:
            return ""
        low, high = self.batches
        return (
            f"evaluation: up to {self.evaluation_flops_mean * trials:.3g} FLOPs, batches of "
            f"{low if low == high else f'{low} to {high}'} images, "
            f"up to {self.evaluation_bytes / 1e9:.2g} GB of memory besides the weights"
        )


def study_cost(trials: Sequence[TrialConfig]) -> StudyCost:
    """The cost of a trial of a study, from sampled trials (`SearchSpace.sample_trials`)."""
    passes = [trial.crop_passes for trial in trials]
    flops = [training_flops(trial) for trial in trials]
    works = [evaluation_work(trial) for trial in trials]
    batches = [work.batch_images for work in works if work.flops] or [0]
    evaluating = [work.flops * trial.measurements for work, trial in zip(works, trials, strict=True)]
    return StudyCost(
        min(passes),
        sum(passes) / len(passes),
        max(passes),
        sum(flops) / len(flops),
        sum(evaluating) / len(evaluating),
        (min(batches), max(batches)),
        max(work.kept * _number_bytes(trial) for work, trial in zip(works, trials, strict=True)),
    )

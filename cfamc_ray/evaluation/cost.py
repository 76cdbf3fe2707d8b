"""What a trial costs, known before it runs: FLOPs are counted, not measured."""

import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import EncoderConfig, TrialConfig
from cfamc_ray.method.encoder import SelfSupervisedEncoder


def training_flops(config: TrialConfig) -> int:
    """FLOPs of the matrix products of a whole trial's training, two for each multiplication and addition.

    Every crop pass that updates weights is a forward and a whole backward pass; an attack pass of its own needs the
    gradient of the input alone, about two thirds of that, unless its weight gradients are kept. What is recomputed
    costs another forward pass.
    """
    update, attack = crop_pass_flops(config.encoder, config.crops.size)
    attack_passes = config.attack_passes_per_epoch
    attack_flops = update if config.perturbation.keep_attack_gradients else attack
    if config.pretraining.recompute:
        again = forward_flops(config.encoder, config.crops.size)
        update, attack_flops = update + again, attack_flops + again
    per_epoch = (config.crop_passes_per_epoch - attack_passes) * update + attack_passes * attack_flops
    return config.pretraining.epochs * per_epoch


class TrainingWork(NamedTuple):
    """What a trial's training comes to, all workers together."""

    flops: float
    """Of the matrix products."""
    activations: float
    """Numbers that all forward passes leave for the backward passes."""
    kept: float
    """Those that are held at once, with the crops, their perturbation and its gradient."""
    parameters: int
    """Of the encoder."""


def training_work(config: TrialConfig) -> TrainingWork:
    """Count a trial's work."""
    size, views, pretraining = config.crops.size, config.crops.views, config.pretraining
    each, parameters = kept_numbers(config.encoder, size)
    at_once = min(pretraining.views_at_once or views, views) if pretraining.recompute else views
    pixels = 4 * 3 * size**2  # of a crop, its perturbation, their sum and its gradient
    return TrainingWork(
        flops=training_flops(config),
        activations=config.crop_passes * each,
        kept=pretraining.batch_images * (at_once * each + views * pixels),
        parameters=parameters,
    )


class StudyCost(NamedTuple):
    """Cost of one trial over points of a study's space, evaluation not counted."""

    crop_passes_low: int
    crop_passes_mean: float
    crop_passes_high: int
    flops_mean: float


def sample_trials(config: StudyConfig, *, points: int = 256) -> list[TrialConfig]:
    """Trials that stand for all of a study: those that a grid takes, else at random points."""
    count = config.budget.trials if config.search.sampler == "grid" else points
    return [config.trial_at(point) for point in islice(config.points(), count)]


def study_cost(trials: Sequence[TrialConfig]) -> StudyCost:
    """What a trial of a study costs, from its `sample_trials`."""
    passes = [trial.crop_passes for trial in trials]
    flops = [training_flops(trial) for trial in trials]
    return StudyCost(min(passes), sum(passes) / len(passes), max(passes), sum(flops) / len(flops))


@lru_cache
def crop_pass_flops(config: EncoderConfig, size: int) -> tuple[int, int]:
    """FLOPs of one crop's forward and backward pass, with and without the weights' gradients.

    Args:
        config: of the encoder.
        size: height and width of the crop in pixels.
    """
    encoder, crops_NCHW = _two_crops_on_meta(config, size)
    counts = []
    for weights in (True, False):
        encoder.requires_grad_(weights)
        with FlopCounterMode(display=False) as counter:
            encoder(crops_NCHW).sum().backward()
        counts.append(counter.get_total_flops() // 2)
    return counts[0], counts[1]


@lru_cache
def forward_flops(config: EncoderConfig, size: int) -> int:
    """FLOPs of one crop's forward pass; the arguments are those of `crop_pass_flops`."""
    encoder, crops_NCHW = _two_crops_on_meta(config, size)
    with FlopCounterMode(display=False) as counter:
        encoder(crops_NCHW)
    return int(counter.get_total_flops()) // 2


@lru_cache
def kept_numbers(config: EncoderConfig, size: int) -> tuple[int, int]:
    """Numbers that a crop's forward pass keeps for its backward pass, and the encoder's parameters.

    The arguments are those of `crop_pass_flops`.
    """
    encoder, two_NCHW = _two_crops_on_meta(config, size)
    kept = []
    for crops_NCHW in (two_NCHW, two_NCHW.repeat(2, 1, 1, 1)):
        sizes: list[int] = []
        with saved_tensors_hooks(partial(_note_size, sizes), lambda tensor: tensor):
            encoder(crops_NCHW)
        kept.append(sum(sizes))
    # What does not grow with the crops is weights.
    return (kept[1] - kept[0]) // 2, sum(weights.numel() for weights in encoder.parameters())


def _note_size(sizes: list[int], tensor: torch.Tensor) -> torch.Tensor:
    sizes.append(tensor.numel())
    return tensor


def _two_crops_on_meta(config: EncoderConfig, size: int) -> tuple[SelfSupervisedEncoder, torch.Tensor]:
    with torch.device("meta"):
        return SelfSupervisedEncoder(config), torch.empty(2, 3, size, size, requires_grad=True)  # batch norm needs two


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of `peak_memory_bytes`, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the largest resident size


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use at once since the reset: of the GPU's allocator, or the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024

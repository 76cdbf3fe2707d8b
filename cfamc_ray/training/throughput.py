"""Measure speed and memory of training steps on this hardware, on random images, without Ray."""

import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cfamc_ray.config.scaling import Cell, SystemConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.splits import Splits
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.method.phases import now, timed_phases
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.precision import device_name
from cfamc_ray.training.trial import Trial

PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product measures the hardware's GEMM rate."""
PRODUCTS = 10
MESSAGE_BYTES = (2**10, 2**18, 2**22, 2**25)
"""Sizes of the all-reduce that measures communication between workers."""
MESSAGES = 5


def measure_cell(cell: Cell, system: SystemConfig, context: DistributedContext) -> dict[str, Any]:
    """Measure a cell; all of its workers call this, and the first worker's result is used.

    With several workers, three kinds of work alternate: complete steps (`steps`), steps without the all-reduce of the
    gradients (`unsynchronised`), and one worker's share of the images on the first worker only (`alone`).

    Args:
        cell: the training steps to measure.
        system: numbers of repeats.
        context: context of this worker; with several workers the process group must exist.

    Returns:
        Seconds of each repeat by kind of work, and of one more repeat by phase; peak bytes; FLOP/s of matrix products
        in the precision of the steps and in float32; seconds of an all-reduce by bytes; amounts of work in the steps.
    """
    keep_freed_memory()
    trial = Trial(cell.trial, random_splits(cell.trial), context=context)
    works: dict[str, Callable[[], object]] = {"steps": trial.run_epoch}
    if context.world_size > 1:
        works |= {"unsynchronised": epoch_of(trial, synchronised=False), "alone": _share_alone(cell.trial, context)}
    seconds = in_turns(works, repeats=system.repeats, warm_ups=system.warm_ups, device=context.device)
    with timed_phases(context.device) as phases:
        phases["all"] = -now(context.device)
        trial.run_epoch()
        phases["all"] += now(context.device)
    work, updates = training_work(cell.trial), cell.trial.updates_per_epoch
    product_type = trial.trainer.autocast or trial.trainer.weight_type
    return {
        "seconds": seconds,
        "phases": dict(phases),
        "peak_memory_bytes": _of_last_worker(trial.rows[-1].peak_memory_bytes, context),
        "product_flops_per_second": product_flops(context.device, product_type),
        "float32_flops_per_second": product_flops(context.device, torch.float32),
        "sums": _sums_over_workers(context) if context.world_size > 1 else [],
        "updates": updates,
        "crop_passes": cell.trial.crop_passes_per_epoch,
        "flops": work.flops / cell.trial.pretraining.epochs,
        "activations": work.activations / cell.trial.pretraining.epochs,
        "kept": work.kept,
        "parameters": work.parameters,
        "number_bytes": trial.trainer.weight_type.itemsize,
        "precision": str(product_type).removeprefix("torch."),
        "device": device_name(context.device),
        "threads": torch.get_num_threads(),
    }


def random_splits(config: TrialConfig) -> Splits:
    """Random training images with the size of a trial's crops; no probe and validation images."""
    images, side = config.data.pretrain_images, config.crops.size
    pixels_NCHW = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    nothing = LabelledImages(pixels_NCHW[:0], torch.zeros(0, dtype=torch.int64))
    return Splits(ImageSubset(pixels_NCHW, torch.arange(images)), nothing, nothing, classes=10)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall time in seconds, including the device's work."""
    started = now(device)
    work()
    return now(device) - started


def in_turns(
    works: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Time several kinds of work in turns, so that a change of the machine's load affects all of them.

    In a process group all workers do this together, and the time of each work is that of the slowest worker.

    Args:
        works: functions to time, by name.
        repeats: number of timed repeats of each.
        device: device whose work is awaited.
        warm_ups: number of repeats before the first that is timed.

    Returns:
        Seconds of each repeat, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-warm_ups, repeats):
        for name, work in works.items():
            taken = seconds_of(partial(_together, work), device)
            if repeat >= 0:
                seconds[name].append(taken)
    return seconds


def _together(work: Callable[[], object]) -> None:
    work()
    if dist.is_initialized():
        dist.barrier()


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: the best of several."""
    side = PRODUCT_SIDE[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    one @ other  # the first call builds plans
    return 2 * side**3 / min(seconds_of(lambda: one @ other, device) for _ in range(PRODUCTS))


def epoch_of(trial: Trial, *, synchronised: bool = True) -> Callable[[], object]:
    """An epoch of a trial of several workers, with or without the all-reduce of the gradients."""

    def epoch() -> None:
        assert isinstance(trial.trainer.replica, DistributedDataParallel)
        with nullcontext() if synchronised else trial.trainer.replica.no_sync():
            trial.run_epoch()

    return epoch


def _share_alone(config: TrialConfig, context: DistributedContext) -> Callable[[], object]:
    """One worker's share of every minibatch, on the first worker; the others wait."""
    if context.rank > 0:
        return nullcontext
    values = {
        key: config.value_of(key) // context.world_size for key in ("pretraining.batch_images", "data.pretrain_images")
    }
    share = config.with_values(values)
    return Trial(share, random_splits(share), context=DistributedContext(device=context.device)).run_epoch


def _of_last_worker(count: int, context: DistributedContext) -> int:
    """The last worker's value, since that worker holds only its part of the steps."""
    if context.world_size == 1:
        return count
    shared = torch.tensor(count, dtype=torch.int64, device=context.device)
    dist.broadcast(shared, src=context.world_size - 1)
    return int(shared)


def _sums_over_workers(context: DistributedContext) -> list[tuple[int, float]]:
    """Bytes of each message, and the median seconds of its all-reduce."""
    measured = []
    for size in MESSAGE_BYTES:
        add_up = partial(dist.all_reduce, torch.ones(size // 4, device=context.device))
        add_up()  # the first call builds connections
        measured.append((size, statistics.median(seconds_of(add_up, context.device) for _ in range(MESSAGES))))
    return measured

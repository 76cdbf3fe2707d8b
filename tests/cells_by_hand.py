"""Cells whose measurements follow from known constants."""

from collections.abc import Callable
from typing import Any

from cfamc_ray.config.scaling import Cell, ScalingConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.store.cells import Measured, Measurements

FLOP, ACTIVATION, UPDATED, UPDATE = 8e-13, 3e-9, 5e-9, 0.01
PROCESS, KEPT, PARAMETER = 5e8, 3.0, 16.0
LATENCY, PER_BYTE = 1e-4, 1e-9
COMMUNICATION_SHARE, WEAK_EFFICIENCY = 0.1, 0.8


def scaling(**system: Any) -> ScalingConfig:
    trial = {
        "data": {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50},
        "encoder": {"width": 8, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 8},
        "pretraining": {"batch_images": 50, "replays": 1},
        "crops": {"views": 2, "size": 16},
    }
    grid = {"crops.views": [2, 4, 8], "encoder.width": [4, 16]}
    given = {"grid": grid, "vary": {"workers": [2], "crops.size": [32], "pretraining.batch_images": [10]}, **system}
    return ScalingConfig.model_validate({"name": "made", "trial": trial, "learning": LEARNING, "system": given})


LEARNING = {"crop_passes": [400, 800, 1600], "split": {"crops.views": [2, 4]}, "seeds": [2]}


def found_of(cell: Cell, noise: Callable[[], float] = lambda: 1.0) -> dict[str, Any]:
    """As `measure_cell` would give it of a machine with these constants, and of noise."""
    epochs, work = cell.trial.pretraining.epochs, training_work(cell.trial)
    updates = cell.trial.updates // epochs
    flops, activations = work.flops / epochs, work.activations / epochs
    updating = updates * UPDATED * work.parameters
    rest = FLOP * flops + ACTIVATION * activations + updates * UPDATE
    seconds = {"steps": [(updating + rest) * noise() for _ in range(3)]}
    if cell.workers > 1:
        seconds["unsynchronised"] = [(1 - COMMUNICATION_SHARE) * taken for taken in seconds["steps"]]
        seconds["alone"] = [WEAK_EFFICIENCY * taken for taken in seconds["steps"]]
    sums = [(size, 2 * (cell.workers - 1) * (LATENCY + size / cell.workers * PER_BYTE)) for size in (2**10, 2**25)]
    return {
        "status": "finished",
        "reason": "",
        "seconds": seconds,
        "phases": {"all": updating + rest, "forward": rest / 2, "backward": rest / 4, "optimizer": updating},
        "peak_memory_bytes": (PROCESS + KEPT * work.kept + PARAMETER * work.parameters) * noise(),
        "product_flops_per_second": 1e12,
        "float32_flops_per_second": 2e11,
        "sums": sums if cell.workers > 1 else [],
        "updates": updates,
        "crop_passes": cell.trial.crop_passes_per_epoch,
        "flops": flops,
        "activations": activations,
        "kept": work.kept,
        "parameters": work.parameters,
        "number_bytes": 4,
        "precision": "bfloat16",
        "device": "CPU, 1 thread",
        "threads": 1,
    }


def measured(config: ScalingConfig, noise: Callable[[], float] = lambda: 1.0) -> list[Measured]:
    return [Measured(cell, Measurements.model_validate(found_of(cell, noise))) for cell in config.cells]

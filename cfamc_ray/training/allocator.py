"""The memory of a training process: what it keeps between two trials, and its share of a GPU.

By default glibc returns a large block to the kernel as soon as it is freed. A training step frees and allocates
gigabytes, and each page then costs a page fault: a third of the time, or half of it on a loaded machine.
"""

import ctypes
import gc
from contextlib import suppress

import torch

from cfamc_ray.config.resources import ResourceConfig

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt (its malloc.h)."""
GROWTH_BYTES = 2**28
"""Bytes by which the heap grows at once."""
CONTEXT_BYTES = 2**30
"""GPU memory that CUDA and its libraries take in each process besides tensors; half as much was measured."""


def keep_freed_memory() -> None:
    """Let this process reuse freed memory, including large blocks; without glibc, do nothing."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, GROWTH_BYTES)


def release_freed_memory() -> None:
    """Return free memory to the kernel and the GPU, so that the next trial has its own peak."""
    if torch.cuda.is_initialized():
        gc.collect()  # reference cycles, such as a compiled network, are not free before
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def worker_device(resources: ResourceConfig) -> torch.device:
    """The device of a worker that sees only its own GPU, or none."""
    return torch.device("cuda" if resources.gpus_per_worker else "cpu")


def use_device(device: torch.device, share: float) -> None:
    """Set up the device of a worker; call it before the worker allocates GPU memory.

    Args:
        device: device of the worker; for a CPU, nothing is done.
        share: fraction of the GPU, up to 1; below 1 it limits the memory that the worker can reserve, so that workers
            on the same GPU have their share. 0, where no share was asked for, is no limit.
    """
    if device.type != "cuda":
        return
    index = device.index or 0
    torch.cuda.set_device(index)  # pinned memory belongs to the current GPU, and would open a context on the first
    if 0 < share < 1:
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(gpu_bytes(share, index) / total, index)


def gpu_bytes(share: float, index: int = 0) -> float:
    """GPU memory for the tensors of a process: its share minus CUDA's own memory, at least half of the share.

    Args:
        share: fraction of the GPU, up to 1.
        index: index of the GPU among the visible ones.
    """
    of_process = share * torch.cuda.get_device_properties(index).total_memory
    return max(of_process - CONTEXT_BYTES, of_process / 2)

"""The memory of a process that trains: what it keeps between two trials, and how much of a GPU is its own.

By default glibc hands a large block back to the kernel as soon as it is freed. A training step frees and allocates
gigabytes, and each page of them then costs a fault: a third of the time, or half of it on a loaded machine.
"""

import ctypes
import gc
from contextlib import suppress

import torch

from cfamc_ray.config.resources import ResourceConfig

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt (its malloc.h)."""
GROWTH_BYTES = 2**28
"""By which the heap grows at once."""
CONTEXT_BYTES = 2**30
"""What CUDA and its libraries take of a GPU for each process beside its tensors; half as much has been seen."""


def keep_freed_memory() -> None:
    """Let this process reuse what it frees, large blocks included; without glibc, nothing happens."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, GROWTH_BYTES)


def release_freed_memory() -> None:
    """Hand what is free back to the kernel and the GPU: between two trials, so that each has a peak of its own."""
    if torch.cuda.is_initialized():
        gc.collect()  # what holds itself, such as a compiled network, is not free before
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def worker_device(resources: ResourceConfig) -> torch.device:
    """The device of a worker that sees its own GPU alone, or none."""
    return torch.device("cuda" if resources.gpus_per_worker else "cpu")


def use_device(device: torch.device, share: float) -> None:
    """Begin a worker: to be called before it allocates anything for a GPU.

    Args:
        device: of the worker; nothing is to be done for a CPU.
        share: of the GPU, up to 1; less than all of it limits what the worker can reserve, so that those beside it have
            theirs.
    """
    if device.type != "cuda":
        return
    index = device.index or 0
    torch.cuda.set_device(index)  # pinned memory belongs to the current GPU, and would open a context on the first
    if share < 1:
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(gpu_bytes(share, index) / total, index)


def gpu_bytes(share: float, index: int = 0) -> float:
    """What the tensors of a process may take of a GPU: its share, less CUDA's own memory, at least half of the share.

    Args:
        share: of the GPU, up to 1.
        index: of the GPU among those that are visible.
    """
    of_process = share * torch.cuda.get_device_properties(index).total_memory
    return max(of_process - CONTEXT_BYTES, of_process / 2)

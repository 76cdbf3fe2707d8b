"""Peak memory of this process, on its GPU or on the host."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of `peak_memory_bytes`, if the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the largest resident size


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory since the reset: memory that the GPU's allocator reserved, or the process's resident size.

    Reserved memory counts even if unused, because no other process can use it. The half a gigabyte or so of GPU memory
    that CUDA itself takes is not counted.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024

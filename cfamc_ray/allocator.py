"""Settings of the C library's allocator for a process that trains on a CPU.

By default glibc hands a large block back to the kernel as soon as it is freed. A training step frees and allocates
gigabytes, and each page of them then costs a fault: a third of the time, or half of it on a loaded machine.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt (its malloc.h)."""
GROWTH_BYTES = 2**28
"""By which the heap grows at once."""


def keep_freed_memory() -> None:
    """Let this process reuse what it frees, large blocks included; without glibc, nothing happens."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, GROWTH_BYTES)


def release_freed_memory() -> None:
    """Hand what is free back to the kernel: between two trials, so that each has a peak of its own."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)

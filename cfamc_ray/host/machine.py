"""Memory and cores that this process may use, by the limits of its container, not those of the host."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OF_PROCESS = Path("/proc/self/cgroup")
"""File with lines HIERARCHY:CONTROLLERS:PATH; cgroup v2 has hierarchy 0 and no controllers."""


def memory_bytes() -> int:
    """Bytes of memory that this process and its children may use, by the limits of the machine and of its cgroups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # v2, v1
            limits += [int(word) for word in _words(group / name) if word.isdecimal()]
    return min(limits)


def cores() -> int:
    """CPU cores that this process and its children may use at once, by affinity and by the quota of its cgroups."""
    limits = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    for group in _groups("cpu"):
        quota, period = [*_words(group / "cpu.max"), "", ""][:2]  # v2
        if not quota:
            quota, period = ("".join(_words(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))  # v1
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) / int(period))
    return max(1, math.floor(min(limits)))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the cgroups that limit this process, of both versions; inside a container also the root."""
    for line in _lines(OF_PROCESS):
        _, controllers, path = [*line.split(":", maxsplit=2), "", ""][:3]
        root = CGROUPS if not controllers else CGROUPS / controller
        if not controllers or controller in controllers.split(","):
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _lines(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()

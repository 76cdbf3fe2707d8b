"""What a result was computed with: date, machine and versions."""

import platform
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cfamc_ray.host.machine import cores, memory_bytes

PACKAGES = ("cfamc_ray", "torch", "torchvision", "ray", "optuna", "numpy", "scikit-learn", "moocore", "pyautoattack")


def environment() -> dict[str, Any]:
    """Date, machine and the versions of the packages that are installed."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "versions": versions,
    }

"""What a result was computed with: date, machine and versions."""

import os
import platform
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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
        "cores": os.cpu_count(),
        "versions": versions,
    }

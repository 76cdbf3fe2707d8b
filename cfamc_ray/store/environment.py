"""What a result was computed with: date, machine and versions."""

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cfamc_ray.host.files import write_text
from cfamc_ray.host.machine import cores, memory_bytes
from cfamc_ray.store.content import content_of, json_object
from cfamc_ray.store.layout import ENVIRONMENT
from cfamc_ray.store.records import read_trials

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


def read_environment(study: Path) -> Mapping[str, Any]:
    """Versions and hardware that a study ran with; empty where they are missing or damaged."""
    return content_of(study / ENVIRONMENT, json_object) or {}


def write_environment(study: Path, **more: Any) -> None:
    """Note that a study begins or is resumed: what it runs on, when it began, and which trials have ended already.

    Args:
        study: folder of the study.
        more: entries beside those of `environment`.
    """
    now, before = environment(), read_environment(study)
    begun = before.get("begun") or before.get("date") or now["date"]
    ended = [record.trial_id for record in read_trials(study) if record.ended]
    write_text(study / ENVIRONMENT, json.dumps(now | more | {"begun": begun, "ended_before": ended}, indent=1) + "\n")

"""A trial as a Ray trainable: in one reused process, or with several Ray Train workers.

In both cases the trial resumes from its own folder, so a killed process is simply restarted.
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyarrow.fs import LocalFileSystem
from ray import train, tune
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.orchestration.crashes import CrashReport
from cfamc_ray.orchestration.images import SharedSources, take_sources
from cfamc_ray.orchestration.packing import Packed, pack
from cfamc_ray.store.layout import STUDY
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.training.allocator import worker_device
from cfamc_ray.training.recording import Row, run_recorded

SEEN_SECONDS = 30.0
"""Seconds after which a folder that is not seen counts as missing."""
LOOK_SECONDS = 0.5
"""Seconds between two looks."""

Point = dict[str, Any]
"""A Tune config: ``number`` of the trial and ``point``, the searched keys and their values."""


def await_folder(folder: Path) -> None:
    """Wait until this machine sees the study's folder, which a network file system may show a little later.

    Raises:
        FileNotFoundError: if it does not. What a trial wrote into a folder of its own would be lost.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    while not (folder / STUDY).exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"{folder} is not on {socket.gethostname()}: every machine of the cluster must see the study's folder "
                "at this path; name one on a shared file system with --out"
            )
        time.sleep(LOOK_SECONDS)


class OneWorkerTrial(tune.Trainable):
    """A trial in this process, which Tune reuses for the next trial, so that starting a trial costs almost nothing."""

    def setup(self, config: Point, study: Packed[StudyConfig], folder: Path, sources: SharedSources) -> None:
        """Begin the first trial of this process."""
        await_folder(folder)
        self._study, self._folder = study.unpack(), folder
        take_sources(sources)
        self._crash_report: CrashReport | None = None
        self.reset_config(config)

    def reset_config(self, new_config: Point) -> bool:
        """Begin another trial; only the loaded images are kept from the last one."""
        trial_folder = TrialFolder(self._folder, new_config["number"])
        if self._crash_report is not None:
            self._crash_report.close()
        self._crash_report = CrashReport(trial_folder)
        self._rows = run_recorded(
            self._study,
            trial_folder,
            new_config["point"],
            DistributedContext(device=worker_device(self._study.resources)),
        )
        return True

    def step(self) -> Row:
        """Train one epoch."""
        return next(self._rows)

    def cleanup(self) -> None:
        """Close the trial's files."""
        self._rows.close()  # type: ignore[attr-defined]
        if self._crash_report is not None:
            self._crash_report.close()


def several_workers(study: StudyConfig, folder: Path) -> Callable[[Point, SharedSources], None]:
    """Build a Tune function that trains each trial with a group of Ray Train workers."""
    packed, resources = pack(study, study.plugins), study.resources

    def worker(config: Point, sources: SharedSources) -> None:
        await_folder(folder)
        study = packed.unpack()
        take_sources(sources)
        workers = train.get_context()
        device = get_device() if resources.gpus_per_worker else torch.device("cpu")
        context = DistributedContext(rank=workers.get_world_rank(), world_size=workers.get_world_size(), device=device)
        trial_folder = TrialFolder(folder, config["number"])
        crash_report = CrashReport(trial_folder, context.rank)
        for row in run_recorded(study, trial_folder, config["point"], context):
            # Without `done`, with which Tune would end the trial while Ray Train still holds the workers' resources.
            train.report({name: value for name, value in row.items() if name != "done"})
        crash_report.close()

    def train_with_workers(config: Point, sources: SharedSources) -> None:
        per_worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        trial_folder = TrialFolder(folder, config["number"])
        TorchTrainer(
            lambda point: worker(point, sources),
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker={name: amount for name, amount in per_worker.items() if amount},
            ),
            torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
            run_config=RunConfig(
                name="workers",
                storage_path=str(trial_folder.path),
                storage_filesystem=LocalFileSystem(),
                failure_config=FailureConfig(max_failures=resources.restarts),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    return train_with_workers

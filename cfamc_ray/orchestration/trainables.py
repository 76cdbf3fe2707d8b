"""A trial as Ray runs it: in one reused process, or by several Ray Train workers.

Either way the trial goes on from its own folder, so a killed process is simply started again.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ray import train, tune
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import load_splits
from cfamc_ray.recording import RecordedTrial, Row, ends_trial
from cfamc_ray.study.records import TrialFolder
from cfamc_ray.trial import Place, TrialFailed

Point = dict[str, Any]
"""A Tune config: ``number`` of the trial and ``point``, the searched keys and their values."""


def run_recorded(config: Point, study: StudyConfig, folder: Path, place: Place) -> Iterator[Row]:
    """Rows of a trial as it trains, with its status; an exception that ends the trial alone is a last row."""
    torch.set_num_threads(study.resources.cpus_per_worker)
    trial_folder = TrialFolder(folder, config["number"])
    known = trial_folder.read()
    if known is not None and known.ended:
        yield {**(known.rows[-1] if known.rows else {}), "status": known.status, "done": True}
        return
    try:
        if place.rank == 0:
            trial_folder.open(config["point"])
        trial = study.trial.with_values(config["point"])
        minutes = study.resources.minutes_per_trial
        with RecordedTrial(
            trial_folder,
            trial,
            load_splits(trial.data),
            point=config["point"],
            place=place,
            seconds=60 * minutes if minutes else None,
        ) as recorded:
            while not recorded.trial.finished:
                row = recorded.advance()
                yield {**row, "status": "finished" if row["done"] else "running"}
    except Exception as error:
        outcome = ends_trial(error)
        if outcome is None:
            raise
        status, reason = outcome
        known_to_all = place.size == 1 or isinstance(error, TrialFailed)
        if place.rank == 0 or not known_to_all:
            trial_folder.close(status, reason)
        if not known_to_all:
            raise  # only this worker knows; Ray ends the others, and all read the outcome when they start again
        yield {"status": status, "reason": reason, "done": True}


class OneWorkerTrial(tune.Trainable):
    """A trial in this process, which Tune reuses for the next one: a trial's start then costs next to nothing."""

    def setup(self, config: Point, study: StudyConfig, folder: Path) -> None:
        """Begin the first trial of this process."""
        self._study, self._folder = study, folder
        self.reset_config(config)

    def reset_config(self, new_config: Point) -> bool:
        """Begin another trial; nothing of the last one is kept but the loaded images."""
        device = torch.device("cuda" if self._study.resources.gpus_per_worker else "cpu")
        self._rows = run_recorded(new_config, self._study, self._folder, Place(device=device))
        return True

    def step(self) -> Row:
        """One epoch."""
        return next(self._rows)

    def cleanup(self) -> None:
        """Close the trial's files."""
        self._rows.close()  # type: ignore[attr-defined]


def several_workers(study: StudyConfig, folder: Path) -> Callable[[Point], None]:
    """A Tune function that trains each trial by a Ray Train group of workers."""
    resources = study.resources

    def worker(point: Point) -> None:
        context = train.get_context()
        device = get_device() if resources.gpus_per_worker else torch.device("cpu")
        place = Place(rank=context.get_world_rank(), size=context.get_world_size(), device=device)
        for row in run_recorded(point, study, folder, place):
            # Without `done`: at its sight Tune would end the trial while Ray Train still holds the workers' places.
            train.report({name: value for name, value in row.items() if name != "done"})

    def train_with_workers(config: Point) -> None:
        per_worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        trial_folder = TrialFolder(folder, config["number"])
        TorchTrainer(
            worker,
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
                failure_config=FailureConfig(max_failures=resources.restarts),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    return train_with_workers

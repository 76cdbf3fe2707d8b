"""The trials of a study as runs of Weights & Biases."""

import os
from collections.abc import Mapping, Sequence

import ray
from ray.air.constants import TRAINING_ITERATION
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.experiment import Trial as TuneTrial

from cfamc_ray.orchestration.loggers import Run
from cfamc_ray.store.records import TrialRecord

LAST_SECONDS = 15
"""Longest time to wait at the end for what is not sent yet; after SIGTERM a cluster kills the command in 30 s."""


class WandbRuns(WandbLoggerCallback):
    """Ray's callback for Weights & Biases, with ids by which a resumed trial goes on in its run.

    ``WANDB_PROJECT`` names the project (default: the study's name), ``WANDB_API_KEY`` or ``wandb login`` gives the
    credentials; with ``WANDB_MODE=offline`` the runs are written to ``wandb/`` in the study's folder. A resumed trial
    sends all its epochs; the server keeps each of them once.

    Args:
        project: name of the study.
    """

    def __init__(self, project: str) -> None:
        super().__init__(
            project=os.environ.get("WANDB_PROJECT") or project, upload_timeout=LAST_SECONDS, resume="allow"
        )

    def epochs_logged(self, run: Run) -> int:
        """Zero, for nothing tells without a network which epochs a run has."""
        return 0

    def is_complete(self, record: TrialRecord) -> bool:
        """True: an earlier command has sent a trial that ended, and one that did not is sent when it is resumed."""
        return True

    def log_trial_result(self, iteration: int, trial: Run, result: Mapping[str, float]) -> None:
        """Send an epoch.

        Raises:
            ray.exceptions.RayTaskError: if a run's process has failed, of which Ray's callback takes no notice.
        """
        super().log_trial_result(iteration, trial, {**result, TRAINING_ITERATION: result["epoch"]})
        futures = list(self._trial_logging_futures.values())
        ended, _ = ray.wait(futures, num_returns=len(futures), timeout=0)
        ray.get(ended)

    def on_experiment_end(self, trials: Sequence[TuneTrial]) -> None:
        """End the runs of interrupted trials, too, and wait until everything is sent."""
        for trial in self._trial_queues:
            self._signal_logging_actor_stop(trial)
        super().on_experiment_end(trials)

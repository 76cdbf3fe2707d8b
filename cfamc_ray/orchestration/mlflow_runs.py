"""The trials of a study as runs of MLflow."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from ray.air.integrations.mlflow import MLflowLoggerCallback
from sqlalchemy import URL

from cfamc_ray.orchestration.loggers import Run
from cfamc_ray.store.layout import MLFLOW
from cfamc_ray.store.records import TrialRecord

MOST_RUNS = 50_000
"""Largest number of runs that MLflow returns at once."""


class MlflowRuns(MLflowLoggerCallback):
    """Ray's callback for MLflow, which goes on with the runs of earlier commands.

    ``MLFLOW_TRACKING_URI`` names the store (default: ``mlflow.db`` in the study's folder), ``MLFLOW_EXPERIMENT_NAME``
    the experiment (default: the study's name). An interrupted trial's run stays RUNNING; a stopped trial's is FINISHED.

    Args:
        experiment: name of the study.
        folder: folder of the study.
        study: id of the study, a tag of its runs.
    """

    def __init__(self, experiment: str, folder: Path, study: str) -> None:
        super().__init__(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or store_uri(folder),
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment,
            tags={"study": study},
        )
        self._study = study

    def setup(self) -> None:
        """Create the experiment if it is missing, and find the runs of earlier commands."""
        super().setup()
        self._client = MlflowClient()
        found = self._client.search_runs(
            [self.mlflow_util.experiment_id], f"tags.study = '{self._study}'", max_results=MOST_RUNS
        )
        self._earlier = {run.data.tags["trial_name"]: run for run in found}

    def epochs_logged(self, run: Run) -> int:
        """Number of epochs that a run has already."""
        earlier = self._earlier.get(run.name)
        return int(earlier.data.metrics.get("epoch", 0)) if earlier else 0

    def is_complete(self, record: TrialRecord) -> bool:
        """Whether a trial's run has all its epochs and its end."""
        run = self._earlier.get(record.trial_id)
        return run is not None and record.ended and run.info.status != "RUNNING"

    def log_trial_start(self, trial: Run) -> None:
        """Begin the run, or go on with that of an earlier command."""
        if earlier := self._earlier.get(trial.name):
            self._trial_runs[trial] = earlier.info.run_id
        super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: Run, result: Mapping[str, float]) -> None:
        """Write an epoch in one request, of which all or nothing arrives; Ray makes two for each metric."""
        now, epoch = int(1000 * time.time()), int(result["epoch"])
        metrics = [Metric(name, float(value), now, epoch) for name, value in result.items()]
        self._client.log_batch(self._trial_runs[trial], metrics=metrics)


def store_uri(folder: Path) -> str:
    """URI of the store in a study's folder, of any name.

    It names SQLite's driver, too: otherwise MLflow reads the rest as a path, and makes a folder of its quoted name.
    """
    return URL.create("sqlite+pysqlite", database=str(folder / MLFLOW)).render_as_string()

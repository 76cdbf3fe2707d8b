"""Loggers of other tools for a study: Ray Tune's own callbacks, which see one run for each trial of the study.

Tune's trials are not those of the study: a trial that is restarted or resumed is a new one to Tune. So the callbacks
are told what the trials' folders hold, which is the truth, and a failure of theirs ends nothing.
"""

import json
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from cfamc_ray.config.errors import first_line
from cfamc_ray.config.study import LoggerName, StudyConfig
from cfamc_ray.config.types import is_number
from cfamc_ray.host.files import write_text
from cfamc_ray.orchestration.callback import record_of
from cfamc_ray.store.content import content_of, json_object
from cfamc_ray.store.layout import LOGGERS
from cfamc_ray.store.records import TrialRecord, read_trials

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A trial as Ray's callbacks read it."""

    name: str
    """Id of the trial in its study, such as ``trial_00007``."""
    trial_id: str
    """Id that no trial of another study has."""
    experiment_dir_name: str
    """Name of the study."""
    local_path: str
    """Folder of the study."""
    config: Mapping[str, Any] = field(compare=False)
    """Searched keys and their values."""

    def __str__(self) -> str:
        return self.name


class RunLogger(Protocol):
    """A logger callback of Ray that knows the runs of earlier commands."""

    def setup(self) -> None:
        """Connect to the tool."""

    def epochs_logged(self, run: Run) -> int:
        """Number of epochs that a run has already."""

    def is_complete(self, record: TrialRecord) -> bool:
        """Whether nothing has to be sent for a trial that is there when the command begins."""

    def log_trial_start(self, trial: Run) -> None:
        """Begin a run, or go on with it."""

    def log_trial_result(self, iteration: int, trial: Run, result: Mapping[str, float]) -> None:
        """Send an epoch."""

    def log_trial_end(self, trial: Run, failed: bool = False) -> None:
        """End a run."""

    def on_experiment_end(self, trials: Sequence[TuneTrial]) -> None:
        """Wait until everything is sent."""


class TrialLogger(tune.Callback):
    """Sends a logger what the trials' folders hold; after a failure it sends nothing more.

    Args:
        name: name of the logger in the space file.
        config: config of the study.
        folder: folder of the study.
        say: called with a message for a person when the logger fails.
        open_logger: creates the logger, given the id of the study.
    """

    def __init__(
        self,
        name: LoggerName,
        config: StudyConfig,
        folder: Path,
        say: Callable[[str], object],
        open_logger: Callable[[str], RunLogger],
    ) -> None:
        self.name, self.failure = name, ""
        self._config, self._folder, self._say, self._open = config, folder, say, open_logger
        self._sent: dict[int, int] = {}
        self._ended: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Empty, because a study is not resumed from Tune's snapshot."""
        return {}

    def setup(self, **info: Any) -> None:
        """Open the logger, and send what it lacks of trials that are there already."""
        self._guarded(self._begin)

    def on_trial_start(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Begin the trial's run, or go on with it."""
        self._update(trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Send the new epochs."""
        self._update(trial)

    def on_trial_complete(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the trial's run; that of an interrupted trial stays open."""
        self._update(trial)

    def on_trial_error(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the trial's run, unless the trial is restarted."""
        self._update(trial)

    def on_experiment_end(self, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Wait until everything is sent."""
        self._guarded(lambda: self._logger.on_experiment_end(trials))

    def _guarded(self, action: Callable[[], object]) -> None:
        if self.failure:
            return
        try:
            action()
        except Exception as error:
            logger.exception("loggers: %s", self.name)
            self.failure = (
                f"warning: loggers: {self.name} failed and gets nothing more from this command "
                f"({type(error).__name__}: {first_line(error)}); the study is not affected"
            )
            self._say(self.failure)

    def _begin(self) -> None:
        self._study = study_id(self._folder)
        self._logger = self._open(self._study)
        self._logger.setup()
        for record in read_trials(self._folder):
            if not self._logger.is_complete(record):
                self._send(record)

    def _update(self, trial: TuneTrial) -> None:
        self._guarded(lambda: self._send(record_of(self._folder, trial)))

    def _send(self, record: TrialRecord) -> None:
        number = record.number
        run = Run(
            record.trial_id,
            f"{self._study}-{record.trial_id}",
            self._config.name,
            str(self._folder),
            dict(record.point),
        )
        if number not in self._sent:
            self._logger.log_trial_start(run)
            self._sent[number] = self._logger.epochs_logged(run)
        for row in record.rows[self._sent[number] :]:
            self._logger.log_trial_result(0, run, metrics_of(row))
            self._sent[number] = row["epoch"]
        if record.ended and number not in self._ended:
            self._logger.log_trial_end(run, failed=record.status == "failed")
            self._ended.add(number)


def build_loggers(config: StudyConfig, folder: Path, say: Callable[[str], object]) -> list[TrialLogger]:
    """The callbacks of a study's loggers; arguments as for `TrialLogger`."""
    return [
        TrialLogger(name, config, folder, say, partial(_open, name, config, folder))
        for name in dict.fromkeys(config.loggers)
    ]


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's row, under their names in ``epochs.jsonl`` and ``trials.csv``.

    Those of an operating point have its L2 strength in their name: ``clean_accuracy/l2_0.01``. What is missing or no
    number is left out.
    """
    metrics = {name: value for name, value in row.items() if _is_finite(value)}
    for point in row.get("operating_points") or ():
        at = f"l2_{point['l2']:.4g}"
        metrics |= {f"{name}/{at}": value for name, value in point.items() if name != "l2" and _is_finite(value)}
    return metrics


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def study_id(folder: Path) -> str:
    """The id by which the loggers tell a study from others of its name; it is made when it is first asked for."""
    path = folder / LOGGERS
    known = (content_of(path, json_object) or {}).get("study")
    if isinstance(known, str):
        return known
    new = uuid.uuid4().hex[:12]
    write_text(path, json.dumps({"study": new}) + "\n")
    return new


def _open(name: LoggerName, config: StudyConfig, folder: Path, study: str) -> RunLogger:
    if name == "mlflow":
        from cfamc_ray.orchestration.mlflow_runs import MlflowRuns  # noqa: PLC0415 (optional, and slow to import)

        return MlflowRuns(config.name, folder, study)
    from cfamc_ray.orchestration.wandb_runs import WandbRuns  # noqa: PLC0415 (optional, and slow to import)

    return WandbRuns(config.name)

"""The Tune callback of a study: updates the view, and restarts trials whose process was lost."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, Self

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from cfamc_ray.figures.charts import front_chart
from cfamc_ray.figures.static import draw
from cfamc_ray.front.front import find_front
from cfamc_ray.front.progress import Progress, progress_of
from cfamc_ray.host.files import DiskFullError
from cfamc_ray.orchestration.crashes import crash_reason
from cfamc_ray.orchestration.growing import SizeWatch
from cfamc_ray.orchestration.orphans import remove_orphaned_groups
from cfamc_ray.search.search import Search
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.training.tensorboard import StudyEvents

REFRESH_SECONDS = 1.0
FRONT_SECONDS = 10.0


class View(Protocol):
    """Shows a running study to a person."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, progress: Progress, records: Sequence[TrialRecord]) -> None:
        """Show the progress, and news of the trials."""

    def say(self, line: str) -> None:
        """Show a line."""


def record_of(folder: Path, trial: TuneTrial) -> TrialRecord:
    """What a study's folder holds of a trial; its point alone where it holds nothing yet."""
    number = trial.config["number"]
    return TrialFolder(folder, number).read() or TrialRecord(number, trial.config["point"])


class StudyCallback(tune.Callback):
    """Updates the view, and restarts trials whose process was lost."""

    def __init__(self, search: Search, folder: Path, view: View) -> None:
        self.search, self.config, self.folder, self.view = search, search.config, folder, view
        self.losses: Counter[int] = Counter()
        self.size_watch = SizeWatch(self.config.resources, self.config.resources.workers_per_trial, view.say)
        self._records = {record.number: record for record in read_trials(folder)}
        self.ended_before = sum(record.ended and record.counts for record in self.records)
        self.started, self.shown = time.monotonic(), 0.0
        self.finished, self.drawn = -1, -math.inf
        self.events = StudyEvents(folder, first_step=self._finished())

    def __getstate__(self) -> dict[str, Any]:
        """Empty, because a study is not resumed from Tune's snapshot."""
        return {}

    def on_step_end(self, iteration: int, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Update the view at most once a second, and TensorBoard's front less often, because it takes longer."""
        if time.monotonic() - self.shown >= REFRESH_SECONDS:
            if self.losses:
                self._heed_losses()
            self._show()
        if time.monotonic() - self.drawn >= FRONT_SECONDS:
            self._draw_front()

    def on_trial_start(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Read the record of the new trial."""
        self._reread(trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Read the record with its new row."""
        self._reread(trial)

    def on_trial_error(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Restart the trial from its last epoch; after too many restarts, record the reason of its failure."""
        number, record = trial.config["number"], record_of(self.folder, trial)
        error = _error_of(trial)
        if _met_a_full_disk(error):
            text = f"{self.folder}: the disk is full; make room there, then re-run with --resume"
            self.search.halted = StopReason("disk_full", text)
            return
        self.losses[number] += 1
        if not record.ended and self.losses[number] <= self.config.resources.restarts:
            self.search.again(record)
        elif not record.ended:
            trial_folder = TrialFolder(self.folder, number)
            reason = _reason(error, trial_folder)
            trial_folder.open(record.point)
            trial_folder.close("failed", reason.text, reason.kind, reason.origin)
            self.search.ended(record.ended_by("failed", reason))
        self._reread(trial)

    def on_experiment_end(self, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Show the final state."""
        self._show()
        self._draw_front()
        self.events.close()

    @property
    def records(self) -> list[TrialRecord]:
        """Records of all trials so far, ordered by number."""
        return [self._records[number] for number in sorted(self._records)]

    def _finished(self) -> int:
        return sum(record.status == "finished" for record in self.records)

    def _draw_front(self) -> None:
        """Write the front to TensorBoard if another trial has finished."""
        self.drawn = time.monotonic()
        if self._finished() != self.finished:
            self.finished = self._finished()
            front = find_front(self.config, self.records)
            chart = front_chart(front, title=self.config.question or self.config.name)
            self.events.write(self.finished, front.hypervolume, draw(chart))

    def _heed_losses(self) -> None:
        """Free what lost trials still occupy, and say when the cluster becomes too small and large enough again.

        This is repeated, because Ray notices the death of one process after another.
        """
        remove_orphaned_groups()
        self.size_watch.look()

    def _reread(self, trial: TuneTrial) -> None:
        self._records[trial.config["number"]] = record_of(self.folder, trial)

    def _show(self) -> None:
        self.shown = time.monotonic()
        seconds = self.shown - self.started
        records = self.records
        progress = progress_of(self.config, records, seconds=seconds, ended_before=self.ended_before)
        self.view.show(progress, records)


def _error_of(trial: TuneTrial) -> Exception | None:
    """The error of a trial; `get_error` would look in the study's folder, to which Tune copies it only later."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())  # type: ignore[no-any-return]
    except (OSError, TypeError, ValueError, EOFError, UnpicklingError):
        return None


def _met_a_full_disk(error: Exception | None) -> bool:
    """Whether a trial's process, or one of its workers, ended because of a full disk."""
    cause = getattr(error, "cause", None)
    return any(isinstance(each, DiskFullError) for each in (cause, *getattr(cause, "worker_failures", {}).values()))


def _reason(error: Exception | None, folder: TrialFolder) -> StopReason:
    """Reason why a trial's process ended: its Python exception, or its crash report."""
    if isinstance(error, RayTaskError):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return StopReason("error", f"its process ended: {lines[-1]}", origin=type(error.cause).__name__)
    return crash_reason(folder)

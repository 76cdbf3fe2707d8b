"""Thin adapters of the search to Ray Tune: what it proposes becomes trials, what it stops is stopped."""

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cfamc_ray.search.search import Search
from cfamc_ray.store.records import TrialFolder


class StudySearcher(Searcher):
    """Hands out the search's proposals; a trial's Tune config is its number and its point.

    Args:
        search: of the study.
        folder: of the study.
    """

    def __init__(self, search: Search, folder: Path) -> None:
        super().__init__()
        self._search, self._folder = search, folder
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune's snapshot of a run is not what a study resumes from."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Number and point of the next trial; None while only the end of running ones can make room for another."""
        proposal = self._search.suggest()
        if proposal is None:
            return None if self._numbers else str(Searcher.FINISHED)
        self._numbers[trial_id] = proposal.number
        return {"number": proposal.number, "point": dict(proposal.point)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take in how the trial ended, as its folder has it; nothing of one that was only interrupted.

        What follows for a trial whose process was lost is the watcher's to say, who knows why.
        """
        record = TrialFolder(self._folder, self._numbers.pop(trial_id)).read()
        if record is not None and record.ended:
            self._search.ended(record)

    def save(self, checkpoint_path: str) -> None:
        """Leave an empty snapshot: what is known is in the storage and in the trials' folders."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class StudyScheduler(FIFOScheduler):
    """Stops the trials that the search wants stopped.

    Several workers read the outcome before their next epoch and end by themselves: ended by Tune they would leave the
    places that Ray Train holds for them.

    Args:
        search: of the study.
        folder: of the study.
    """

    def __init__(self, search: Search, folder: Path) -> None:
        super().__init__()
        self._search, self._folder = search, folder

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune's snapshot of a run is not what a study resumes from."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Judge the trial by its new row."""
        trial_folder = TrialFolder(self._folder, trial.config["number"])
        record = trial_folder.read()
        reason = self._search.observe(record) if record else None
        if reason is None:
            return str(TrialScheduler.CONTINUE)
        trial_folder.close("stopped", reason.text, reason.kind)
        if self._search.config.resources.workers_per_trial > 1:
            return str(TrialScheduler.CONTINUE)
        trial_folder.checkpoint.unlink(missing_ok=True)
        return str(TrialScheduler.STOP)

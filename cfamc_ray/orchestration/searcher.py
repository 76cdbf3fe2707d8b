"""Thin adapters of the search to Ray Tune: a searcher that proposes trials, and a scheduler that stops them."""

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cfamc_ray.search.search import Search
from cfamc_ray.store.records import TrialFolder


class StudySearcher(Searcher):
    """Gives Tune the search's proposals; a trial's Tune config is its number and its point.

    Args:
        search: search of the study.
        folder: folder of the study.
    """

    def __init__(self, search: Search, folder: Path) -> None:
        super().__init__()
        self._search, self._folder = search, folder
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Empty, because a study is not resumed from Tune's snapshot."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Number and point of the next trial; None while the next one must wait for running trials to end."""
        proposal = self._search.suggest()
        if proposal is None:
            return None if self._numbers else str(Searcher.FINISHED)
        self._numbers[trial_id] = proposal.number
        return {"number": proposal.number, "point": dict(proposal.point)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report to the search how the trial ended, from its folder; an interrupted trial is not reported.

        `StudyCallback` handles a trial whose process was lost.
        """
        record = TrialFolder(self._folder, self._numbers.pop(trial_id)).read()
        if record is not None and record.ended:
            self._search.ended(record)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty snapshot: all state is in the storage and in the trials' folders."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: there is no state to restore."""


class StudyScheduler(FIFOScheduler):
    """Stops the trials that the search decides to stop.

    Trials of several workers are not stopped by Tune, which would not free the resources that Ray Train holds for them:
    the workers read the outcome before their next epoch, and end.

    Args:
        search: search of the study.
        folder: folder of the study.
    """

    def __init__(self, search: Search, folder: Path) -> None:
        super().__init__()
        self._search, self._folder = search, folder

    def __getstate__(self) -> dict[str, Any]:
        """Empty, because a study is not resumed from Tune's snapshot."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Decide from its new row whether a trial continues."""
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

"""Ray Tune's OptunaSearch over a study's own sampler and storage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from ray.tune.search.optuna import OptunaSearch

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.bookkeeping import tell
from cfamc_ray.search.sampler import FeasibleSampler, suggest_point
from cfamc_ray.study.records import TrialFolder


class StudySearch(OptunaSearch):
    """Hands out unfinished trials first, then new points; tells Optuna FAIL for whatever has no finite objectives.

    A trial's Tune config is its number and its point; number and Optuna's number are the same.

    Args:
        config: of the study.
        storage: Optuna's.
        folder: of the study.
        unfinished: numbers of trials that go on.
    """

    def __init__(self, config: StudyConfig, storage: BaseStorage, folder: Path, unfinished: Sequence[int]) -> None:
        super().__init__(
            space=lambda trial: suggest_point(trial, config.space),
            metric=list(config.objectives),
            mode=["max" if direction == "maximize" else "min" for direction in config.objectives.values()],
            sampler=FeasibleSampler(config),
            study_name=config.name,
            storage=storage,
        )
        self._config, self._folder, self._unfinished = config, folder, list(unfinished)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Number and point of the next trial."""
        study: optuna.Study = self._ot_study
        if self._unfinished:
            number = self._unfinished.pop(0)
            trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
        else:
            trial = study.ask()
        self._ot_trials[trial_id] = trial
        return {"number": trial.number, "point": suggest_point(trial, self._config.space)}

    def save(self, checkpoint_path: str) -> None:
        """Leave an empty snapshot: what is known is in the storage and in the trials' folders."""
        Path(checkpoint_path).touch()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell how the trial ended, as its folder has it; nothing of one that was only interrupted."""
        number = self._ot_trials[trial_id].number
        record = TrialFolder(self._folder, number).read()
        if error or (record is not None and record.ended):
            tell(self._ot_study, number, self._config, record)

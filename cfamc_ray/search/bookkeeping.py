"""Optuna's storage of a study, brought in line with what the trials' folders hold."""

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.sampler import FeasibleSampler
from cfamc_ray.study.points import distributions
from cfamc_ray.study.records import TrialRecord


def open_study(config: StudyConfig, storage: BaseStorage, sampler: BaseSampler | None = None) -> optuna.Study:
    """Load or create the study, with a sampler of the config unless another is given.

    Raises:
        InputError: where the storage holds a study of this name with other objectives, which Optuna would accept.
    """
    directions = list(config.objectives.values())
    study = optuna.create_study(
        storage=storage,
        study_name=config.name,
        directions=directions,
        sampler=sampler or FeasibleSampler(config),
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    stored = [direction.name.lower() for direction in study.directions]
    names = study.metric_names or list(config.objectives)
    if (stored, names) != (directions, list(config.objectives)):
        raise InputError(
            f"{config.name}: the storage holds a study with the objectives "
            f"{dict(zip(names, stored, strict=True))}, not {config.objectives}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(config.objectives))
    return study


def reconcile(study: optuna.Study, config: StudyConfig, records: Sequence[TrialRecord]) -> list[int]:
    """Tell the storage how trials ended while nobody told it, and find those that go on.

    A trial of which the storage knows nothing (it was lost) is added with its number.

    Returns:
        numbers of the trials that began and did not end.
    """
    by_number = {record.number: record for record in records}
    known = study.get_trials(deepcopy=False)
    for number in range(len(known), max(by_number, default=-1) + 1):
        study.add_trial(_lost_trial(config, by_number.get(number)))
    unfinished = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            continue
        record = by_number.get(trial.number)
        if record is None or not record.ended:
            unfinished.append(trial.number)
        else:
            tell(study, trial.number, config, record)
    return unfinished


def tell(study: optuna.Study, number: int, config: StudyConfig, record: TrialRecord | None) -> None:
    """Tell how a trial ended: its objectives if it is finished and has them all, else that it failed.

    A trial that was stopped is told as pruned, and a point that did not fit as pruned and infeasible; neither with
    values, for an early one is no final one. TPE then takes both for worse than what ran to its end.
    """
    values = record.values(config.objectives) if record and record.status == "finished" else []
    if values and np.isfinite(values).all():
        study.tell(number, values)
    elif record and record.status in ("stopped", "infeasible"):
        if record.status == "infeasible":
            trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
            trial.set_constraint("fits budget and memory", 1.0)
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, state=TrialState.FAIL)


def _lost_trial(config: StudyConfig, record: TrialRecord | None) -> FrozenTrial:
    if record is None:
        return create_trial(state=TrialState.FAIL)
    searched = distributions(config.space)
    return create_trial(
        state=TrialState.RUNNING,
        params={key: record.point[key] for key in searched},
        distributions=searched,
    )

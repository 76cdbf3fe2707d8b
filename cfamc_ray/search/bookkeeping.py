"""Synchronise Optuna's storage of a study with the trials' folders."""

import json
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.stages import trunk_part
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.front import find_front, most_useful
from cfamc_ray.search.feasible_sampler import FeasibleSampler
from cfamc_ray.space.encoding import distributions
from cfamc_ray.store.records import TrialRecord


def open_study(config: StudyConfig, storage: BaseStorage, sampler: BaseSampler | None = None) -> optuna.Study:
    """Load or create the study, by default with the sampler of the config.

    Raises:
        InputError: if the storage holds a study of this name with other objectives, which Optuna would accept.
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
    """Report ended trials that the storage lacks, and find unfinished trials.

    A trial that is missing in the storage is added with its number.

    Returns:
        Numbers of the trials that began and did not end.
    """
    by_number = {record.number: record for record in records}
    told = told_records(config, records)
    stored = study.get_trials(deepcopy=False)
    lost = range(len(stored), max(by_number, default=-1) + 1)
    _add_trials(study, lost.start, [_lost_trial(config, told.get(number)) for number in lost])
    unfinished = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            continue
        record = by_number.get(trial.number)
        if record is None or not record.ended:
            unfinished.append(trial.number)
        else:
            tell(study, trial.number, config, told[trial.number])
    return unfinished


def told_records(config: StudyConfig, records: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    """What Optuna is told of each trial, by number: its record at one operating point.

    Optuna knows one vector of objectives for each trial; it gets the operating point that adds most to the front of the
    trials before it.
    """
    front: list[TrialRecord] = []
    told = {}
    for record in sorted(records, key=lambda record: record.number):
        told[record.number] = most_useful(config, record, front)
        front = find_front(config, [*front, record]).members
    return told


def tell(study: optuna.Study, number: int, config: StudyConfig, record: TrialRecord | None) -> None:
    """Report how a trial ended: its objectives if it is finished and has all of them, else a failure.

    A stopped trial is reported as pruned, and a point that did not fit as pruned and infeasible, both without values,
    because early values are not final. TPE then ranks both below complete trials.
    """
    state, values, violated = _ending(config, record)
    for name, amount in violated.items():
        optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id).set_constraint(name, amount)
    study.tell(number, values, state)


def _ending(config: StudyConfig, record: TrialRecord | None) -> tuple[TrialState, list[float] | None, dict[str, float]]:
    """State, values and violated constraints of a trial that ended."""
    values = record.values(config.objectives) if record and record.status == "finished" else []
    if values and np.isfinite(values).all():
        return TrialState.COMPLETE, values, {}
    if record and record.status in ("stopped", "infeasible"):
        violated = {"fits budget and memory": 1.0} if record.status == "infeasible" else {}
        return TrialState.PRUNED, None, violated
    return TrialState.FAIL, None, {}


def _lost_trial(config: StudyConfig, record: TrialRecord | None) -> FrozenTrial:
    if record is None:
        return create_trial(state=TrialState.FAIL)
    state, values, violated = _ending(config, record) if record.ended else (TrialState.RUNNING, None, {})
    searched = distributions(config.space)
    return create_trial(
        state=state,
        values=values,
        params={key: record.point[key] for key in searched},
        distributions=searched,
        constraints=violated,
        user_attrs=trunk_part(record.point),
    )


def _add_trials(study: optuna.Study, first: int, trials: Sequence[FrozenTrial]) -> None:
    """Add trials with consecutive numbers from `first`, as `study.add_trial` does one by one.

    In a database this is one transaction: Optuna's about thirty statements per trial would take minutes.
    """
    storage = getattr(study._storage, "_backend", None)
    if not isinstance(storage, RDBStorage):
        for trial in trials:
            study.add_trial(trial)
        return
    with Session(storage.engine) as session:
        first_id = (session.scalar(select(func.max(models.TrialModel.trial_id))) or 0) + 1
        rows = [
            row
            for place, trial in enumerate(trials)
            for row in _database_rows(trial, first_id + place, study_id=study._study_id, number=first + place)
        ]
        session.bulk_save_objects(rows, preserve_order=False)
        session.commit()


def _database_rows(trial: FrozenTrial, trial_id: int, *, study_id: int, number: int) -> Iterator[object]:
    """The rows of a trial in Optuna's tables."""
    yield models.TrialModel(
        trial_id=trial_id,
        number=number,
        study_id=study_id,
        state=trial.state,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
    )
    for objective, value in enumerate(trial.values or []):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        yield models.TrialValueModel(trial_id=trial_id, objective=objective, value=stored, value_type=kind)
    for name, searched in trial.distributions.items():
        yield models.TrialParamModel(
            trial_id=trial_id,
            param_name=name,
            param_value=searched.to_internal_repr(trial.params[name]),
            distribution_json=distribution_to_json(searched),
        )
    for key, attribute in trial.system_attrs.items():
        yield models.TrialSystemAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(attribute))
    for key, attribute in trial.user_attrs.items():
        yield models.TrialUserAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(attribute))

"""A small space, and a study that is asked for points as a run of trials asks."""

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.bookkeeping import open_storage, open_study, tell
from cfamc_ray.search.sampler import suggest_point
from cfamc_ray.study.records import Status, TrialRecord

Point = dict[str, Any]

SPACE = {
    "crops.views": {"int": [2, 12], "log": True},
    "pretraining.replays": {"int": [1, 7], "step": 2},
    "perturbation.epsilon": {"float": ["1/255", "16/255"], "log": True},
    "encoder.norm": {"choice": ["batch", "group"]},
    "pretraining.epochs": 4,
}


def study_of(sampler: str = "random", *, seed: int = 0, **given: Any) -> StudyConfig:
    defaults = {
        "name": "asked",
        "search": {"sampler": sampler, "startup_trials": 4, "seed": seed},
        "space": SPACE,
        "conditions": ["crops.views * pretraining.replays <= 24", "encoder.norm == 'group' or crops.views < 9"],
    }
    return StudyConfig.model_validate(defaults | given)


def ended(config: StudyConfig, number: int, point: Point, status: Status = "finished") -> TrialRecord:
    """A trial whose metrics follow from its point."""
    views, epsilon = point.get("crops.views", 4), point.get("perturbation.epsilon", 0.01)
    metrics = {"clean_accuracy": views / 20 - epsilon, "robust_accuracy": epsilon * 10, "flops": views}
    return TrialRecord(number, point, [{"epoch": 1, "done": True, **metrics}], status)


def ask(study: optuna.Study, config: StudyConfig) -> tuple[int, Point]:
    trial = study.ask()
    return trial.number, suggest_point(trial, config.space)


def run(config: StudyConfig, trials: int, storage: BaseStorage | None = None) -> list[Point]:
    """Ask for points one after the other, every fifth of which fails."""
    study = open_study(config, storage or InMemoryStorage())
    points = []
    for _ in range(trials):
        number, point = ask(study, config)
        tell(study, number, config, ended(config, number, point, "failed" if number % 5 == 4 else "finished"))
        points.append(point)
    return points


def run_on_disk(config: StudyConfig, trials: int, folder: Path) -> list[Point]:
    """As a process of its own would: the storage is opened anew."""
    return run(config, trials, open_storage(folder))

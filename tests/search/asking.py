"""A small space, and a study that is asked for points as a run of trials asks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.search.bookkeeping import open_study, tell
from cfamc_ray.search.feasible_sampler import suggest_point
from cfamc_ray.search.search import Proposal, Search
from cfamc_ray.search.storage import open_storage
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.epoch_rows import Row
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason

Point = dict[str, Any]
Scores = Callable[[TrialRecord], dict[str, float]]

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
        "constraints": ["crops.views * pretraining.replays <= 24", "encoder.norm == 'group' or crops.views < 9"],
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


def flops_of(trial: TrialConfig) -> float:
    return trial.crop_passes * 1e6


class Work(NamedTuple):
    """Of a network whose memory grows with its crops."""

    flops: float
    activations: float
    kept: float
    parameters: float
    evaluation_flops: float = 1.0
    evaluation_kept: float = 0.0


def work_of(trial: TrialConfig) -> Work:
    crops = trial.crops.views * trial.pretraining.batch_images
    return Work(flops_of(trial), trial.crop_passes, crops * trial.crops.size**2 * trial.encoder.width, 1e3)


def scores_of(record: TrialRecord) -> dict[str, float]:
    """Accuracies that pull in two directions."""
    views, epsilon = record.point.get("crops.views", 4), record.point.get("perturbation.epsilon", 0.01)
    return {"clean_accuracy": views / 20 - epsilon, "robust_accuracy": epsilon * 10}


def rows_of(config: StudyConfig, record: TrialRecord, scores: Scores = scores_of) -> list[Row]:
    """All rows of a trial: what it costs grows evenly with its epochs, 1 s for 1e12 FLOPs and 1 s to measure."""
    trial = config.trial_at(record.point)
    epochs = trial.pretraining.epochs
    return [
        {
            "epoch": epoch,
            "done": epoch == epochs,
            "crop_passes": trial.crop_passes_until(epoch),
            "flops": 1e6 * trial.crop_passes_until(epoch),
            "train_seconds": trial.crop_passes_until(epoch) / 1e6,
            "eval_seconds": float(epoch),
            "peak_memory_bytes": 1e8 + work_of(trial).kept,
            **scores(record),
        }
        for epoch in range(1, epochs + 1)
    ]


def search_of(
    config: StudyConfig, storage: BaseStorage | None = None, records: Sequence[TrialRecord] = (), **given: Any
) -> Search:
    return Search(config, storage or InMemoryStorage(), records, work_of=work_of, **given)


def advance(search: Search, number: int, *, failure: str = "", scores: Scores = scores_of) -> TrialRecord:
    """A trial's next epoch, or its failure after that epoch: of which origin."""
    known = search.records[number]
    rows = rows_of(search.config, known, scores)[: len(known.rows) + 1]
    status: Status = "failed" if failure else "finished" if rows[-1]["done"] else "running"
    record = replace(known, rows=rows, status=status)
    if failure:
        record = record.ended_by("failed", StopReason("error", f"{failure} in trial {number}", failure))
    if reason := search.observe(record):
        record = record.ended_by("stopped", reason)
    if record.ended:
        search.ended(record)
    return record


def drive(
    search: Search,
    *,
    trials: float = math.inf,
    at_once: int = 1,
    failure: Callable[[int], str] = lambda number: "",
    scores: Scores = scores_of,
) -> list[Proposal]:
    """Run made-up trials, an epoch of each in turn, until the search proposes no more or has proposed so many."""
    proposed: list[Proposal] = []
    running: list[int] = []
    while True:
        while len(running) < at_once and len(proposed) < trials and (proposal := search.suggest()) is not None:
            proposed.append(proposal)
            running.append(proposal.number)
        if not running:
            return proposed
        number = running.pop(0)
        if not advance(search, number, failure=failure(number), scores=scores).ended:
            running.append(number)


def spent(search: Search, cost: str) -> float:
    """What the trials so far have reported."""
    return sum(record.value(cost) for record in search.records.values() if record.rows)

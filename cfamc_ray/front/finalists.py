"""The front's points with fresh seeds as a study of their own, and what it and its tests say about them."""

from collections.abc import Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from cfamc_ray.config.ranges import Choice
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.confirmation import Confirmation, attainment, candidates, confirm, confirmation_table
from cfamc_ray.host.files import write_text
from cfamc_ray.store.records import TrialFolder, TrialRecord, csv_text, read_trials

LAST_MEASURED = {"pgd20": "pgd_margin", "autoattack": "autoattack"}
"""Id of the last attack that a protocol runs for each attack of `confirm`."""


def confirming_study(
    config: StudyConfig, searched: Sequence[TrialRecord], known: Sequence[TrialRecord]
) -> StudyConfig | None:
    """A study of every candidate with every fresh seed, seed by seed; None without a candidate.

    Args:
        config: of the study whose front is confirmed.
        searched: its trials.
        known: trials of an earlier confirmation; what it trained is not trained again.
    """
    assert config.confirm is not None
    finalists = candidates(config, searched, tolerance=config.confirm.tolerance)
    if not finalists:
        return None
    seeds = fresh_seeds(config, searched, config.confirm.seeds)
    points = [{**record.point, "seed": seed} for seed in seeds for record in finalists]
    others = sum(record.point not in points for record in known)
    tree = config.model_dump(mode="json") | {
        "name": "confirm",
        "question": f"What of the front of {config.name} is luck?",
        "search": {"sampler": "random", "seed": config.search.seed},
        "budget": {"trials": len(points) + others},
        "keep_encoders": "all",
        "start_from": points,
    }
    tree["space"] = tree["space"] | {"seed": Choice(choice=seeds)}
    return StudyConfig.model_validate(tree)


def fresh_seeds(config: StudyConfig, searched: Sequence[TrialRecord], number: int) -> list[int]:
    """The smallest seeds that no searched trial had."""
    used = {config.trial.seed, *(int(record.point.get("seed", config.trial.seed)) for record in searched)}
    return list(islice((seed for seed in count() if seed not in used), number))


def confirmed_front(config: StudyConfig, folder: Path) -> list[Confirmation]:
    """What the fresh seeds say of each candidate, so far."""
    assert config.confirm is not None
    finalists = candidates(config, read_trials(folder), tolerance=config.confirm.tolerance)
    return confirm(
        config.objectives,
        finalists,
        {record.number: _fresh_values(config, folder, record) for record in finalists},
        extra=[*(f"{name}_again" for name in _accuracies(config)), *config.confirm.attacks],
    )


def _fresh_values(config: StudyConfig, folder: Path, finalist: TrialRecord) -> list[Mapping[str, float]]:
    """Of each fresh run its objectives as tested, every attack, and the search's own metrics measured again."""
    assert config.confirm is not None
    found: list[Mapping[str, float]] = []
    for record in read_trials(folder / "confirm"):
        same = {key: value for key, value in record.point.items() if key in finalist.point and key != "seed"}
        test = TrialFolder(folder / "confirm", record.number).read_test()
        if test is None or same != {key: value for key, value in finalist.point.items() if key != "seed"}:
            continue
        attacks: dict[str, float] = {name: test.get(LAST_MEASURED[name], np.nan) for name in config.confirm.attacks}
        tested = {"clean_accuracy": test.get("none", np.nan), "robust_accuracy": attacks[config.confirm.attacks[-1]]}
        costs: dict[str, float] = {name: record.value(name) for name in config.objectives if name not in tested}
        again = {f"{name}_again": record.value(name) for name in _accuracies(config)}
        found.append({**costs, **tested, **attacks, **again})
    return found


def _accuracies(config: StudyConfig) -> list[str]:
    return [name for name in config.objectives if name.endswith("_accuracy")]


def write_confirmation(config: StudyConfig, folder: Path, confirmed: Sequence[Confirmation]) -> None:
    """Write confirm.csv, one row per candidate, and attainment.csv, the surfaces that 20, 50 and 80 % of seeds reach.

    A surface needs two or three objectives, and the same seeds of every candidate.
    """
    table = confirmation_table(confirmed, config.objectives)
    if table:
        write_text(folder / "confirm.csv", csv_text(table))
    surfaces = _surfaces(config, confirmed)
    if surfaces:
        write_text(folder / "attainment.csv", csv_text(surfaces))


def _surfaces(config: StudyConfig, confirmed: Sequence[Confirmation]) -> list[dict[str, Any]]:
    seeds = min((found.seeds for found in confirmed), default=0)
    if not seeds or len(config.objectives) not in (2, 3):
        return []
    fronts = [
        np.array([[found.values[name][seed] for name in config.objectives] for found in confirmed])
        for seed in range(seeds)
    ]
    return [
        {"attained_by": level, **dict(zip(config.objectives, map(float, point), strict=True))}
        for level, points in attainment(config.objectives, fronts).items()
        for point in points
    ]

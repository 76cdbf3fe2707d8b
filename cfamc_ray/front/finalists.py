"""The study that trains the front again with fresh seeds, and what its trials and their tests say of the front."""

import math
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np

from cfamc_ray.config.ranges import Choice
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.confirmation import (
    TESTED,
    Confirmation,
    FreshRun,
    attainment,
    candidates,
    confirm,
    confirmation_table,
)
from cfamc_ray.host.files import write_text
from cfamc_ray.store.layout import ATTAINMENT, CONFIRM, CONFIRM_TABLE
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials
from cfamc_ray.store.tables import Column, Table, metric_column

LAST_MEASURED = {"pgd20": "pgd_margin", "autoattack": "autoattack"}
"""Id of the last attack that a protocol runs for each attack of `confirm`."""


def confirming_study(
    config: StudyConfig, searched: Sequence[TrialRecord], trained: Sequence[TrialRecord]
) -> StudyConfig | None:
    """A study of every candidate with every fresh seed, seed by seed; None without a candidate.

    Args:
        config: of the study whose front is confirmed.
        searched: its trials.
        trained: trials of an earlier confirmation, which are not trained again.
    """
    assert config.confirm is not None
    finalists = candidates(config, searched, tolerance=config.confirm.tolerance)
    if not finalists:
        return None
    seeds = fresh_seeds(config, searched, config.confirm.seeds)
    points = [{**record.point, "seed": seed} for seed in seeds for record in finalists]
    others = sum(record.point not in points for record in trained)
    tree = config.model_dump(mode="json") | {
        "name": CONFIRM,
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
    """What the fresh seeds say of each candidate so far."""
    assert config.confirm is not None
    finalists = candidates(config, read_trials(folder), tolerance=config.confirm.tolerance)
    fresh = {record.number: _fresh_runs(config, folder, record) for record in finalists}
    return confirm(config.objectives, finalists, fresh, attacks=config.confirm.attacks)


def _fresh_runs(config: StudyConfig, folder: Path, finalist: TrialRecord) -> list[FreshRun]:
    """The tested runs at a finalist's point, whatever their seed."""
    assert config.confirm is not None
    runs = []
    for record in read_trials(folder / CONFIRM):
        same = {key: value for key, value in record.point.items() if key in finalist.point and key != "seed"}
        test = TrialFolder(folder / CONFIRM, record.number).read_test()
        if test is None or same != {key: value for key, value in finalist.point.items() if key != "seed"}:
            continue
        values = {name: math.nan if value is None else value for name, value in test.items()}
        attacks: dict[str, float] = {name: values.get(LAST_MEASURED[name], math.nan) for name in config.confirm.attacks}
        tested = {
            "clean_accuracy": values.get("none", math.nan),
            "robust_accuracy": attacks[config.confirm.attacks[-1]],
        }
        others = {name: record.value(name) for name in config.objectives if name not in TESTED}
        again = {name: record.value(name) for name in config.objectives if name in TESTED}
        runs.append(FreshRun({**others, **tested, **attacks}, again))
    return runs


def write_confirmation(config: StudyConfig, folder: Path, confirmed: Sequence[Confirmation]) -> None:
    """Write confirm.csv, one row per candidate, and attainment.csv, the surfaces that 20, 50 and 80 % of seeds reach.

    A surface needs two or three objectives, and the same seeds of every candidate.
    """
    for name, table in (
        (CONFIRM_TABLE, confirmation_table(confirmed, config)),
        (ATTAINMENT, _attainment_table(config, confirmed)),
    ):
        if table.rows:
            write_text(folder / name, table.csv())


def _attainment_table(config: StudyConfig, confirmed: Sequence[Confirmation]) -> Table:
    columns = [Column("attained_by", unit="fraction"), *map(metric_column, config.objectives)]
    rows: list[dict[str, float]] = []
    seeds = min((one.seeds for one in confirmed), default=0)
    if seeds and len(config.objectives) in (2, 3):
        fronts = [
            np.array([[one.tested[name].values[seed] for name in config.objectives] for one in confirmed])
            for seed in range(seeds)
        ]
        rows = [
            {"attained_by": level, **dict(zip(config.objectives, map(float, point), strict=True))}
            for level, points in attainment(config.objectives, fronts).items()
            for point in points
        ]
    return Table("attainment", "Attainment surfaces", columns, rows)

"""The table of a study's trials: trials.csv and front.csv, and how the points in it are read back."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cfamc_ray.config.active_keys import active_part
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.stages import TRUNK, TRUNK_EPOCHS, trunk_part
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.types import Scalar
from cfamc_ray.config.yaml12 import parse_yaml
from cfamc_ray.metrics import costs
from cfamc_ray.store.content import content_of
from cfamc_ray.store.csv_files import csv_rows
from cfamc_ray.store.layout import TRIALS, number_of
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2, Column, Table, metric_column, setting_column


def trials_table(config: StudyConfig, records: Sequence[TrialRecord]) -> Table:
    """One row per record: id, status, reason, epochs, objectives, costs, and the columns of `settings_columns`.

    A metric that is missing is None; a key that a trial does not have is left out. Records that stand for an operating
    point have its metrics.
    """
    metrics, settings = list(dict.fromkeys([*config.objectives, *costs()])), settings_columns(config, records)
    rows = []
    for record in records:
        row = {
            "trial_id": record.trial_id,
            "status": record.status,
            "reason": record.reason,
            "epochs": len(record.rows),
        }
        row |= {name: record.recorded(name) for name in metrics}
        rows.append(row | settings_of(config, record))
    columns = [*map(Column, ("trial_id", "status", "reason", "epochs")), *map(metric_column, metrics), *settings]
    return Table("trials", "All trials", columns, rows)


def settings_columns(config: StudyConfig, records: Iterable[TrialRecord]) -> list[Column]:
    """Columns of the searched keys, and of those of forks' trunks.

    That of the L2 strength comes first if any record stands for an operating point.
    """
    records = list(records)
    at_points = any(record.l2 is not None for record in records)
    of_trunks = [key for record in records for key in trunk_part(record.point)]
    keys, norms = [*([L2] if at_points else []), *config.space, *of_trunks], norms_of(config)
    return [setting_column(key, norms) for key in dict.fromkeys(keys)]


def settings_of(config: StudyConfig, record: TrialRecord) -> dict[str, Any]:
    """Cells of `settings_columns`, without those of keys that the trial does not have; None is the value null."""
    return ({} if record.l2 is None else {L2: record.l2}) | applied_part(config, record.point)


def applied_part(config: StudyConfig, point: Point) -> dict[str, Scalar]:
    """The part of a point that its trial applies: without keys of components that the trial does not have."""
    return active_part(TrialConfig, point, config.tree_at)


def with_cost(objectives: Iterable[str]) -> list[str]:
    """The metrics of a short summary: the objectives, and the cost that does not depend on the machine."""
    return list(dict.fromkeys([*objectives, "crop_passes"]))


def tabled_points(config: StudyConfig, study: Path) -> dict[int, dict[str, Any]]:
    """Points by the number of their trial, as trials.csv has them from the last time that a command ended.

    A key that the trial's components do not have is empty there; its value, which changes nothing, is any of its range.
    """
    points = {}
    for row in content_of(study / TRIALS, csv_rows) or []:
        name = row.get("trial_id", "")
        if name.removeprefix("trial_").isdecimal() and row.keys() >= config.space.keys():
            read = {key: _values(config, key, row[key]) for key in _keys(config, row)}
            empty = {key: config.space[key].edges()[0] for key, values in read.items() if not (values or row[key])}
            point = {key: values[0] for key, values in read.items() if values} | empty
            if point.keys() == read.keys() and not applied_part(config, point).keys() & empty.keys():
                points[number_of(name)] = {key: point[key] for key in read}
    return points


def _keys(config: StudyConfig, row: Mapping[str, str]) -> list[str]:
    """The keys of the point in a row."""
    return [*config.space, *(key for key, cell in trunk_part(row).items() if cell)]


def _values(config: StudyConfig, key: str, cell: str) -> list[Any]:
    """What a cell may stand for among a key's values."""
    if key == TRUNK_EPOCHS:
        return [int(cell)] if cell.isdecimal() else []
    key = key.removeprefix(TRUNK)
    try:
        readings = [parse_yaml(cell), cell]
    except InputError:
        readings = [cell]
    return [value for value in readings if config.space[key].contains(value)]

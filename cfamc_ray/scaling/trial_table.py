"""Sizes and accuracies of the trials of a scaling study. Shapes: N trials, F factors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cfamc_ray.config.scaling import EPOCHS, ScalingConfig
from cfamc_ray.config.types import is_number
from cfamc_ray.metrics import accuracies, costs
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Column, Table, metric_column, setting_column

Array = npt.NDArray[np.float64]

VIEWS, PASSES = "crops.views", "crop_passes"


class TrialTable(NamedTuple):
    """Finished trials of the learning part."""

    points: Sequence[Mapping[str, Any]]
    """Searched keys and their values."""
    budgets: Array
    """Planned crop passes of the budget that each trial belongs to, (N,)."""
    passes: Array
    """Crop passes that each trial took, (N,)."""
    accuracies: Mapping[str, Array]
    """By metric, (N,); NaN where it was not measured."""

    def sizes(self, keys: Sequence[str]) -> Array:
        """Sizes of some factors, sizes_NF; a factor is a key, or `crop_passes`."""
        columns = [self.passes if key == PASSES else [float(point[key]) for point in self.points] for key in keys]
        return np.array(columns, dtype=float).reshape(len(keys), -1).T

    def measured(self, metric: str) -> "TrialTable":
        """The trials that have a metric."""
        return self.take(np.isfinite(self.accuracies[metric]))

    def mean_of_alike(self, metric: str, point: Mapping[str, Any]) -> float:
        """Mean over the trials at a point, whatever their seed and epochs; over all trials where there is none."""
        wanted = {key: value for key, value in point.items() if key not in ("seed", EPOCHS)}
        alike = [n for n, other in enumerate(self.points) if wanted.items() <= other.items()]
        return float(self.accuracies[metric][alike or slice(None)].mean())

    def at(self, values: Mapping[str, Any]) -> "TrialTable":
        """The trials whose points have some values."""
        return self.take(np.array([values.items() <= point.items() for point in self.points], dtype=bool))

    def take(self, places: Any) -> "TrialTable":
        """Some of the trials, by mask or by index."""
        chosen = np.arange(len(self.points))[places]
        reached = {name: values[chosen] for name, values in self.accuracies.items()}
        return TrialTable([self.points[n] for n in chosen], self.budgets[chosen], self.passes[chosen], reached)


def learning_table(config: ScalingConfig, records: Sequence[TrialRecord]) -> Table:
    """A row for each trial of the learning part: its point, how it ended, its accuracies and costs."""
    metrics = list(dict.fromkeys([*accuracies(), *costs()]))
    rows = []
    for record in records:
        last = record.rows[-1] if record.rows else {}
        rows.append(
            {"trial_id": record.trial_id, "status": record.status, "budget": _budget(config, record)}
            | {name: last.get(name) for name in metrics}
            | dict(record.point)
        )
    columns = [
        *(Column("trial_id"), Column("status"), Column("budget", unit="passes")),
        *map(metric_column, metrics),
        *map(setting_column, config.learning_points[0]),
    ]
    return Table("learning", "Trials of the learning part", columns, rows)


def trial_table(config: ScalingConfig, records: Sequence[TrialRecord]) -> TrialTable:
    """The finished trials, for the laws."""
    finished = [record for record in records if record.status == "finished"]
    return TrialTable(
        points=[record.point for record in finished],
        budgets=np.array([_budget(config, record) for record in finished], dtype=float),
        passes=np.array([record.value(PASSES) for record in finished]),
        accuracies={name: np.array([record.value(name) for record in finished]) for name in accuracies()},
    )


def factors(trials: TrialTable) -> list[str]:
    """Numeric keys that vary between the trials, without the seed."""
    keys = [key for key in (trials.points[0] if trials.points else {}) if key != "seed"]
    numbers = [key for key in keys if all(is_number(point[key]) for point in trials.points)]
    return [key for key in numbers if len({point[key] for point in trials.points}) > 1]


def alike(config: ScalingConfig, trials: TrialTable) -> TrialTable:
    """The trials that laws compare: a key whose values are not all numbers is no factor, so it is as in `trial`.

    If `trial` has none of the values of `learning.split`, such a key is the first of them.
    """
    shared = config.in_trial(config.learning.vary)
    for key, values in config.learning.split.items():
        own = config.trial.value_of(key)
        shared[key] = own if own in values else values[0]
    names = {key: value for key, value in shared.items() if not all(is_number(point[key]) for point in trials.points)}
    return trials.at(names)


def _budget(config: ScalingConfig, record: TrialRecord) -> int:
    """The planned budget that is nearest to the crop passes of the trial."""
    trial = config.trial.with_values(dict(record.point))
    return min(config.learning.crop_passes, key=lambda passes: abs(math.log(trial.crop_passes / passes)))

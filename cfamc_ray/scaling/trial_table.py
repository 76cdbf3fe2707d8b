"""What the trials of a scaling study reached, as its laws see them. Shapes: N trials, F factors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cfamc_ray.config.scaling import EPOCHS, ScalingConfig
from cfamc_ray.store.records import COSTS, TrialRecord

Array = npt.NDArray[np.float64]

ACCURACIES = ("clean_accuracy", "robust_accuracy")
VIEWS, PASSES = "crops.views", "crop_passes"


class TrialTable(NamedTuple):
    """Finished trials of the learning part."""

    points: Sequence[Mapping[str, Any]]
    """Searched keys and their values."""
    budgets: Array
    """The planned crop passes that each belongs to, (N,)."""
    passes: Array
    """Those that it took, (N,)."""
    accuracies: Mapping[str, Array]
    """By metric, (N,); NaN where it was not measured."""

    def sizes(self, keys: Sequence[str]) -> Array:
        """sizes_NF of some factors; `crop_passes` is one too."""
        columns = [self.passes if key == PASSES else [float(point[key]) for point in self.points] for key in keys]
        return np.array(columns, dtype=float).reshape(len(keys), -1).T

    def measured(self, metric: str) -> "TrialTable":
        """Those that have the metric."""
        return self.take(np.isfinite(self.accuracies[metric]))

    def mean_of_alike(self, metric: str, point: Mapping[str, Any]) -> float:
        """Mean over the trials that differ from a point in seed and epochs alone; over all where there is none."""
        wanted = {key: value for key, value in point.items() if key not in ("seed", EPOCHS)}
        alike = [n for n, other in enumerate(self.points) if wanted.items() <= other.items()]
        return float(self.accuracies[metric][alike or slice(None)].mean())

    def take(self, places: Any) -> "TrialTable":
        """Some of them, by mask or by position."""
        chosen = np.arange(len(self.points))[places]
        accuracies = {name: values[chosen] for name, values in self.accuracies.items()}
        return TrialTable([self.points[n] for n in chosen], self.budgets[chosen], self.passes[chosen], accuracies)


def learning_table(config: ScalingConfig, records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """A row for each trial of the learning part: what it was, how it ended, what it reached and cost."""
    table = []
    for record in records:
        last = record.rows[-1] if record.rows else {}
        metrics = dict.fromkeys([*ACCURACIES, *COSTS])
        table.append(
            {"trial_id": record.trial_id, "status": record.status, "budget": _budget(config, record)}
            | {name: last.get(name) for name in metrics}
            | dict(record.point)
        )
    return table


def learning_columns(config: ScalingConfig) -> list[str]:
    """Columns of `learning_table`, also where it has no rows."""
    return ["trial_id", "status", "budget", *ACCURACIES, *COSTS, *config.learning_points[0]]


def trial_table(config: ScalingConfig, records: Sequence[TrialRecord]) -> TrialTable:
    """The finished trials, as the laws see them."""
    finished = [record for record in records if record.status == "finished"]
    return TrialTable(
        points=[record.point for record in finished],
        budgets=np.array([_budget(config, record) for record in finished], dtype=float),
        passes=np.array([record.value(PASSES) for record in finished]),
        accuracies={name: np.array([record.value(name) for record in finished]) for name in ACCURACIES},
    )


def factors(found: TrialTable) -> list[str]:
    """Keys with numbers that vary among the trials; seeds are no factor."""
    keys = [key for key in (found.points[0] if found.points else {}) if key != "seed"]
    numbers = [key for key in keys if all(_is_number(point[key]) for point in found.points)]
    return [key for key in numbers if len({point[key] for point in found.points}) > 1]


def _budget(config: ScalingConfig, record: TrialRecord) -> int:
    """The planned one that is nearest to what the trial takes."""
    trial = config.trial.with_values(dict(record.point))
    return min(config.learning.crop_passes, key=lambda passes: abs(math.log(trial.crop_passes / passes)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

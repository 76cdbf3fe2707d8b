"""All that a scaling study says: both parts of its run; of what is learned the laws, the splits, and sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.study.cells import CellFolder, Measured, read_cells
from cfamc_ray.study.laws import Fit, HeldOut, fit, held_out
from cfamc_ray.study.learned import ACCURACIES, PASSES, Learned, factors, learned
from cfamc_ray.study.records import TrialRecord, read_trials
from cfamc_ray.study.splits import Doubling, Split, SplitCurves, best_splits, doublings, split_curves
from cfamc_ray.study.system import SystemFits, fit_system, system_tree
from cfamc_ray.study.wording import show_change, show_count, show_interval, show_point, show_value

CONFIG, LEARNING, SYSTEM = "scaling.yaml", "learning", "system"
"""In a run's folder: the space as resolved, the study of the learning part, the cells of the system part."""


class ScalingRun(NamedTuple):
    """Both parts of a run, as far as they have come."""

    config: ScalingConfig
    cells: CellFolder
    measured: Sequence[Measured]
    system: SystemFits
    records: Sequence[TrialRecord]
    trials: Learned
    learning: Sequence["Fits"]

    @property
    def learned(self) -> bool:
        """Whether all trials have ended."""
        planned = len(self.config.learning_points)
        return 0 < planned == sum(record.ended for record in self.records)

    @property
    def fitted(self) -> bool:
        """Whether anything could be."""
        return bool(self.system.costs) or any(one.total for one in self.learning)

    @property
    def tree(self) -> dict[str, Any]:
        """As fits.json holds it."""
        return {**system_tree(self.system), LEARNING: fits_tree(self.learning)}


def read_run(config: ScalingConfig, folder: Path) -> ScalingRun:
    """Read and fit a run, finished or not.

    Args:
        config: of the run.
        folder: of the run.
    """
    cells, records = CellFolder(folder / SYSTEM), read_trials(folder / LEARNING)
    measured, trials = read_cells(config, cells), learned(config, records)
    return ScalingRun(config, cells, measured, fit_system(measured), records, trials, fit_learning(config, trials))


class Fits(NamedTuple):
    """All that the learning part says of one accuracy; None for what too few trials leave open."""

    metric: str
    total: Fit | None
    factors: Fit | None
    held_out: HeldOut | None
    views: Sequence[Doubling]
    """Among all trials first, then for each setting of the other keys that are split."""
    splits: Sequence[Split]
    curves: Sequence[SplitCurves]


def fit_learning(config: ScalingConfig, found: Learned) -> list[Fits]:
    """Everything, for each accuracy that was measured.

    Args:
        config: of the run.
        found: its finished trials.
    """
    return [_fits(config, found, name) for name in ACCURACIES if np.isfinite(found.accuracies[name]).any()]


def _fits(config: ScalingConfig, found: Learned, metric: str) -> Fits:
    def fitted(keys: Sequence[str]) -> Fit | None:
        try:
            return fit(found, metric, keys) if keys else None
        except ValueError:
            return None

    by_factors = fitted(factors(found))
    return Fits(
        metric=metric,
        total=fitted([PASSES]),
        factors=by_factors,
        held_out=held_out(found, metric),
        views=doublings(config, found, metric),
        splits=best_splits(config, found, metric, by_factors) if by_factors else [],
        curves=split_curves(config, found, metric, by_factors),
    )


def fits_tree(every: Sequence[Fits]) -> dict[str, Any]:
    """The fits as fits.json holds them."""
    return {one.metric: _tree(one) for one in every}


def _tree(one: Fits) -> dict[str, Any]:
    laws = {"total": one.total, "factors": one.factors}
    return {
        "laws": {
            name: {
                **fitted.law._asdict(),
                "exponent_intervals_95": [fitted.exponent_interval(place) for place in range(len(fitted.law.keys))],
            }
            for name, fitted in laws.items()
            if fitted
        },
        "held_out": one.held_out
        and {
            "trials": one.held_out.trials,
            "median_absolute_error": {name: one.held_out.median(name) for name in one.held_out.errors},
        },
        "views_doubled_at_equal_crop_passes": [{**views._asdict(), "decided": views.decided} for views in one.views],
        "splits": [split._asdict() for split in one.splits],
    }


def conclusions(every: Sequence[Fits]) -> list[str]:
    """What the learning part found, in sentences with numbers."""
    found = []
    for one in every:
        name = one.metric.replace("_", " ")
        for views in one.views:
            subject = (
                f"With {show_point(views.among)} alone it is"
                if views.among
                else f"At equal crop passes, twice the crops and half the epochs change {name} by"
            )
            found.append(
                f"{subject} {show_change(one.metric, views.per_doubling)} (95 % interval "
                f"{show_interval(one.metric, (views.low, views.high))}, {views.blocks} groups): "
                f"{'decided' if views.decided else 'not decided'}."
            )
        if one.held_out:
            errors = {key: f"{100 * one.held_out.median(key):.1f}" for key in one.held_out.errors}
            found.append(
                f"From the smaller budgets, the law of single factors misses {name} at the largest by "
                f"{errors['factors']} points (median of {one.held_out.trials} trials), the law of crop passes alone by "
                f"{errors['total']}, and who expects no change from the budget before by {errors['unchanged']}"
                + ("." if one.held_out.helps else ": the law is not to be trusted beyond what was measured.")
            )
        for split in one.splits[-1:]:
            found.append(
                f"With {show_count(split.budget)} crop passes, {name} was best at {show_point(split.measured)} "
                f"({show_value(one.metric, split.measured_accuracy)}); predicted best is "
                f"{show_point(split.predicted)} "
                f"({show_value(one.metric, split.predicted_accuracy)}), and {split.support:.0%} of the laws fitted to "
                "noise drawn anew agree in its crops."
            )
    return found or ["Too few trials have finished to say anything."]

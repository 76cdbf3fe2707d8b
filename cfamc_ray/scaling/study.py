"""All that a scaling study says: both parts of its run; of what is learned the laws, the splits, and sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.formatting import format_change, format_count, format_interval, format_point, format_value
from cfamc_ray.scaling.allocation import (
    Allocation,
    AllocationCurves,
    Doubling,
    allocation_curves,
    best_allocations,
    doublings,
)
from cfamc_ray.scaling.laws import ADDITIVE, INTERACTIONS, TOTAL, UNCHANGED, Fit, HeldOut, Terms, fit, forms, held_out
from cfamc_ray.scaling.system import SystemFits, fit_system, system_tree
from cfamc_ray.scaling.trial_table import ACCURACIES, TrialTable, trial_table
from cfamc_ray.store.cells import CellFolder, Measured, read_cells
from cfamc_ray.store.records import TrialRecord, read_trials

PREDICTORS = {
    TOTAL: "the law of crop passes alone",
    ADDITIVE: "the law of single factors",
    INTERACTIONS: "the law of factors and their pairs",
    UNCHANGED: "who expects no change from the budget before",
}
"""Of the largest budget, in words."""
DECIDED = 0.95
"""Share of the resampled laws that must agree."""
CONFIG, LEARNING, SYSTEM = "scaling.yaml", "learning", "system"
"""In a run's folder: the space as resolved, the study of the learning part, the cells of the system part."""


class ScalingRun(NamedTuple):
    """Both parts of a run, as far as they have come."""

    config: ScalingConfig
    cells: CellFolder
    measured: Sequence[Measured]
    system: SystemFits
    records: Sequence[TrialRecord]
    trials: TrialTable
    learning: Sequence["Fits"]

    @property
    def learned(self) -> bool:
        """Whether all trials have ended."""
        planned = len(self.config.learning_points)
        return 0 < planned == sum(record.ended for record in self.records)

    @property
    def fitted(self) -> bool:
        """Whether anything could be."""
        return bool(self.system.costs) or any(one.laws for one in self.learning)

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
    measured, trials = read_cells(config, cells), trial_table(config, records)
    return ScalingRun(config, cells, measured, fit_system(measured), records, trials, fit_learning(config, trials))


class Fits(NamedTuple):
    """All that the learning part says of one accuracy."""

    metric: str
    laws: Mapping[str, Fit]
    """By name; without those that too few trials leave open."""
    held_out: HeldOut | None
    views: Sequence[Doubling]
    """Among all trials first, then for each setting of the other keys that are split."""
    splits: Sequence[Allocation]
    curves: Sequence[AllocationCurves]


def fit_learning(config: ScalingConfig, found: TrialTable) -> list[Fits]:
    """Everything, for each accuracy that was measured.

    Args:
        config: of the run.
        found: its finished trials.
    """
    return [_fits(config, found, name) for name in ACCURACIES if np.isfinite(found.accuracies[name]).any()]


def _fits(config: ScalingConfig, found: TrialTable, metric: str) -> Fits:
    split = config.learning.split
    tried = {name: _fit(found, metric, terms) for name, terms in forms(found, split).items()}
    laws = {name: fitted for name, fitted in tried.items() if fitted}
    judged = held_out(found, metric, split)
    chosen = laws.get(judged.best if judged else ADDITIVE)
    return Fits(
        metric=metric,
        laws=laws,
        held_out=judged,
        views=doublings(config, found, metric),
        splits=best_allocations(config, found, metric, chosen) if chosen else [],
        curves=allocation_curves(config, found, metric, chosen),
    )


def _fit(found: TrialTable, metric: str, terms: Terms) -> Fit | None:
    try:
        return fit(found, metric, terms) if terms else None
    except ValueError:
        return None


def fits_tree(every: Sequence[Fits]) -> dict[str, Any]:
    """The fits as fits.json holds them."""
    return {one.metric: _tree(one) for one in every}


def _tree(one: Fits) -> dict[str, Any]:
    return {
        "laws": {
            name: {
                **fitted.law._asdict(),
                "exponent_intervals_95": {key: fitted.exponent_interval(key) for key in fitted.law.exponents},
            }
            for name, fitted in one.laws.items()
        },
        "held_out": one.held_out
        and {
            "trials": one.held_out.trials,
            "mean_absolute_error": {name: one.held_out.mean(name) for name in one.held_out.errors},
            "best": one.held_out.best,
        },
        "views_doubled_at_equal_crop_passes": [
            {**views._asdict(), "significant": views.significant} for views in one.views
        ],
        "splits": [split._asdict() for split in one.splits],
    }


def conclusions(every: Sequence[Fits]) -> list[str]:
    """What the learning part found, in sentences with numbers."""
    found = []
    for one in every:
        name = one.metric.replace("_", " ")
        for views in one.views:
            subject = (
                f"With {format_point(views.among)} alone it is"
                if views.among
                else f"At equal crop passes, twice the crops and half the epochs change {name} by"
            )
            found.append(
                f"{subject} {format_change(one.metric, views.per_doubling)} (95 % interval "
                f"{format_interval(one.metric, (views.low, views.high))}, {views.blocks} groups): "
                f"{'significant' if views.significant else 'not significant'}."
            )
        if one.held_out:
            errors = [f"{100 * one.held_out.mean(key):.1f} by {PREDICTORS[key]}" for key in one.held_out.errors]
            found.append(
                f"From the smaller budgets, {name} at the largest is predicted to within (points, means of "
                f"{one.held_out.trials} trials) {', '.join(errors[:-1])} and {errors[-1]}"
                + ("." if one.held_out.helps else ": no law is to be trusted beyond what was measured.")
            )
        for split in one.splits[-1:]:
            found.append(
                f"With {format_count(split.budget)} crop passes, {name} was best at {format_point(split.measured)} "
                f"({format_value(one.metric, split.measured_accuracy)}); predicted best is "
                f"{format_point(split.predicted)} "
                f"({format_value(one.metric, split.predicted_accuracy)}), and {split.support:.0%} of the laws fitted "
                f"to resampled noise agree: {'significant' if split.support >= DECIDED else 'not significant'}."
            )
    return found or ["Too few trials have finished to say anything."]

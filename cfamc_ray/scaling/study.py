"""A scaling study: both parts of its run, the laws and allocations of the learning part, and its conclusions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.formatting import format_change, format_count, format_interval, format_point, format_value
from cfamc_ray.metrics import accuracies, find_metric
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
from cfamc_ray.scaling.trial_table import TrialTable, alike, trial_table
from cfamc_ray.store.cells import CellFolder, Measured, read_cells
from cfamc_ray.store.layout import LEARNING, SYSTEM
from cfamc_ray.store.records import TrialRecord, read_trials

PREDICTORS = {
    TOTAL: "the law of crop passes alone",
    ADDITIVE: "the additive law",
    INTERACTIONS: "the law with interactions",
    UNCHANGED: "assuming no change from the next smaller budget",
}
"""What predicts the largest budget, in words."""
AGREEMENT = 0.95
"""Share of the resampled laws that must agree for a prediction to be significant."""


class ScalingRun(NamedTuple):
    """Both parts of a run, finished or not."""

    config: ScalingConfig
    cells: CellFolder
    measured: Sequence[Measured]
    system: SystemFits
    records: Sequence[TrialRecord]
    trials: TrialTable
    learning: Sequence["Fits"]

    @property
    def learned(self) -> bool:
        """Whether all trials of the learning part have ended."""
        ended = [record.point for record in self.records if record.ended]
        planned = self.config.learning_points
        return bool(planned) and all(point in ended for point in planned)

    @property
    def fitted(self) -> bool:
        """Whether any model or law could be fitted."""
        return bool(self.system.costs) or any(one.laws for one in self.learning)

    @property
    def tree(self) -> dict[str, Any]:
        """The content of fits.json."""
        return {**system_tree(self.system), LEARNING: fits_tree(self.learning)}


def read_run(config: ScalingConfig, folder: Path) -> ScalingRun:
    """Read and fit a run, finished or not.

    Args:
        config: of the run.
        folder: of the run.
    """
    planned = config.learning_points
    cells = CellFolder(folder / SYSTEM)
    records = [record for record in read_trials(folder / LEARNING) if record.point in planned]
    measured, trials = read_cells(config, cells), trial_table(config, records)
    return ScalingRun(config, cells, measured, fit_system(measured), records, trials, fit_learning(config, trials))


class Fits(NamedTuple):
    """All that the learning part says about one accuracy."""

    metric: str
    laws: Mapping[str, Fit]
    """By name; a law for which there are too few trials is left out."""
    held_out: HeldOut | None
    views: Sequence[Doubling]
    """Effect of doubling the crops: in all trials, then for each setting of the other keys that share the budget."""
    allocations: Sequence[Allocation]
    curves: Sequence[AllocationCurves]


def fit_learning(config: ScalingConfig, trials: TrialTable) -> list[Fits]:
    """All fits, for each accuracy that was measured.

    Args:
        config: of the run.
        trials: its finished trials.
    """
    return [_fits(config, trials, name) for name in accuracies() if np.isfinite(trials.accuracies[name]).any()]


def _fits(config: ScalingConfig, trials: TrialTable, metric: str) -> Fits:
    split, comparable = config.learning.split, alike(config, trials)
    tried = {name: _fit(comparable, metric, terms) for name, terms in forms(comparable, split).items()}
    laws = {name: fitted for name, fitted in tried.items() if fitted}
    judged = held_out(comparable, metric, split)
    chosen = laws.get(judged.best if judged else ADDITIVE)
    return Fits(
        metric=metric,
        laws=laws,
        held_out=judged,
        views=doublings(config, trials, metric),
        allocations=best_allocations(config, comparable, metric, chosen) if chosen else [],
        curves=allocation_curves(config, trials, metric, chosen),
    )


def _fit(trials: TrialTable, metric: str, terms: Terms) -> Fit | None:
    try:
        return fit(trials, metric, terms) if terms else None
    except ValueError:
        return None


def fits_tree(every: Sequence[Fits]) -> dict[str, Any]:
    """The fits of the learning part, as in fits.json."""
    return {one.metric: _tree(one) for one in every}


def _tree(one: Fits) -> dict[str, Any]:
    return {
        "laws": {
            name: {
                **fitted.law._asdict(),
                "exponent_intervals_95": {
                    key: fitted.exponent_interval(key) for key in fitted.law.exponents if key not in fitted.law.assumed
                },
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
        "allocations": [best._asdict() for best in one.allocations],
    }


def conclusions(every: Sequence[Fits]) -> list[str]:
    """What the learning part shows, in sentences with numbers."""
    sentences = []
    for one in every:
        name = find_metric(one.metric).label
        for views in one.views:
            subject = (
                f"For {format_point(views.among)} alone: by"
                if views.among
                else f"At equal crop passes, twice the crops and half the epochs change {name} by"
            )
            sentences.append(
                f"{subject} {format_change(one.metric, views.per_doubling)} (95 % interval "
                f"{format_interval(one.metric, (views.low, views.high))}, {views.blocks} groups): "
                f"{'significant' if views.significant else 'not significant'}."
            )
        if one.held_out:
            errors = [f"{100 * one.held_out.mean(key):.1f} by {PREDICTORS[key]}" for key in one.held_out.errors]
            sentences.append(
                f"Predicting {name} at the largest budget from the smaller ones has a mean absolute error (in points, "
                f"over {one.held_out.trials} trials) of {', '.join(errors[:-1])} and {errors[-1]}"
                + ("." if one.held_out.helps else ": do not trust any law beyond the measured budgets.")
            )
        for best in one.allocations[-1:]:
            sentences.append(
                f"With {format_count(best.budget)} crop passes, {name} was best at {format_point(best.measured)} "
                f"({format_value(one.metric, best.measured_accuracy)}). The law predicts the best allocation to be "
                f"{format_point(best.predicted)} ({format_value(one.metric, best.predicted_accuracy)}), and "
                f"{best.support:.0%} of its bootstrap resamples agree: "
                f"{'significant' if best.support >= AGREEMENT else 'not significant'}."
            )
    return sentences or ["Too few trials have finished to say anything."]

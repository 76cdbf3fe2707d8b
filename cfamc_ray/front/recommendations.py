"""What a study recommends to run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_count
from cfamc_ray.front.dominance import pareto_front
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord


class Advice(NamedTuple):
    """A trial that is worth to be trained, and what it is best at."""

    role: str
    record: TrialRecord


def advise(config: StudyConfig, records: Sequence[TrialRecord], *, budget: float | None = None) -> list[Advice]:
    """The best in each objective, the knee of the front, and the best within a budget in what matters most.

    Args:
        config: of the study.
        records: of its trials.
        budget: crop passes that a trial may take; None for no such advice.
    """
    front = find_front(config, records)
    if not front.members:
        return []
    found = [Advice(best_at(config, name), _best(config, front.members, name)) for name in config.objectives]
    if len(config.objectives) > 1 and len(front.members) > 2:
        found.append(Advice("the knee: nearest to the best of everything", _knee(config, front.members)))
    if budget is not None:
        affordable = [r for r in front.members + front.dominated if r.value("crop_passes") <= budget]
        role = f"{best_at(config, headline(config))} within {format_count(budget)} crop passes"
        found += [Advice(role, _best(config, affordable, headline(config)))] if affordable else []
    return found


def best_at(config: StudyConfig, name: str) -> str:
    """How the best in an objective is called."""
    return f"{'best' if config.objectives[name] == 'maximize' else 'lowest'} {name.replace('_', ' ')}"


def _best(config: StudyConfig, records: Sequence[TrialRecord], name: str) -> TrialRecord:
    sign = 1 if config.objectives[name] == "maximize" else -1
    return max(records, key=lambda record: sign * record.value(name))


def _knee(config: StudyConfig, members: Sequence[TrialRecord]) -> TrialRecord:
    """The member nearest to the best value of every objective, in ranges of the front."""
    signs_K = np.array([1.0 if direction == "maximize" else -1.0 for direction in config.objectives.values()])
    values_NK = np.array([record.values(config.objectives) for record in members]) * signs_K
    span_K = np.where(np.ptp(values_NK, axis=0) > 0, np.ptp(values_NK, axis=0), 1.0)
    distance_N = np.linalg.norm((values_NK.max(axis=0) - values_NK) / span_K, axis=1)
    return members[int(distance_N.argmin())]


def cost_ladder(
    config: StudyConfig, records: Sequence[TrialRecord], *, metric: str = "", cost: str = "crop_passes"
) -> list[TrialRecord]:
    """What more cost buys: the finished trials that no cheaper one equals in a metric, the cheapest first.

    Args:
        config: of the study.
        records: of its trials.
        metric: an objective; robust accuracy where it is one, else the first that is no cost.
        cost: that is paid.
    """
    metric = metric or headline(config)
    front = find_front(config, records)
    trials = [r for r in [*front.members, *front.dominated] if math.isfinite(r.value(cost))]
    values = np.array([[record.value(metric), record.value(cost)] for record in trials]).reshape(-1, 2)
    mask = pareto_front(values, [config.objectives[metric], "minimize"])
    chosen = sorted((r for r, on in zip(trials, mask, strict=True) if on), key=lambda r: (r.value(cost), r.number))
    return [r for place, r in enumerate(chosen) if not place or r.value(metric) != chosen[place - 1].value(metric)]


def headline(config: StudyConfig) -> str:
    """The objective that matters most to who asks: robust accuracy, else any accuracy, else the first."""
    accuracies = [name for name in config.objectives if name.endswith("accuracy")]
    return "robust_accuracy" if "robust_accuracy" in accuracies else [*accuracies, *config.objectives][0]

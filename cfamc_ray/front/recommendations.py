"""Configurations that a study recommends."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_count
from cfamc_ray.front.dominance import pareto_front, signs
from cfamc_ray.front.front import find_front
from cfamc_ray.front.uncertainty import interval_of
from cfamc_ray.intervals import Z
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord


class Advice(NamedTuple):
    """A recommended trial, at one of its operating points if it has any."""

    role: str
    """What it is best at, in words."""
    record: TrialRecord
    """As the records that were given have it."""
    objective: str | None = None
    """The objective in which it is the best of all; None for a compromise, or within a budget."""


def advise(config: StudyConfig, records: Sequence[TrialRecord], *, budget: float | None = None) -> list[Advice]:
    """The best in each objective, the knee of the front, and the best in the main objective within a budget.

    Args:
        config: of the study.
        records: of its trials, measured or `expected`.
        budget: crop passes that a trial may take; None: without the last one.
    """
    front = find_front(config, records)
    if not front.members:
        return []
    advice = [Advice(_best_at(config, name), _best(config, front.members, name), name) for name in config.objectives]
    if len(config.objectives) > 1 and len(front.members) > 2:
        advice.append(
            Advice("the knee: nearest to the best of everything", _compromise(config, front.members, front.members))
        )
    if budget is not None:
        affordable = [r for r in front.members + front.dominated if r.value("crop_passes") <= budget]
        role = f"{_best_at(config, headline(config))} within {format_count(budget)} crop passes"
        advice += [Advice(role, _best(config, affordable, headline(config)))] if affordable else []
    return advice


def _best_at(config: StudyConfig, name: str) -> str:
    """How the best trial in an objective is called."""
    return f"{'best' if config.objectives[name] == 'maximize' else 'lowest'} {find_metric(name).label}"


def _best(config: StudyConfig, records: Sequence[TrialRecord], name: str) -> TrialRecord:
    """The best in an objective; of points within its standard error, which images alone cause, the best compromise."""
    sign = signs([config.objectives[name]])[0]
    top = max(records, key=lambda record: sign * record.value(name))
    low, high = interval_of(top, name)
    error = (high - low) / 2 / Z if math.isfinite(low) else 0.0
    near = [record for record in records if sign * (top.value(name) - record.value(name)) <= error]
    return _compromise(config, near, records)


def _compromise(config: StudyConfig, records: Sequence[TrialRecord], scale: Sequence[TrialRecord]) -> TrialRecord:
    """The record nearest to the best of them in every objective, each in units of its range over `scale`."""
    signs_K = signs(config.objectives.values())
    values_NK, scale_MK = (np.array([r.values(config.objectives) for r in each]) * signs_K for each in (records, scale))
    span_K = np.where(np.ptp(scale_MK, axis=0) > 0, np.ptp(scale_MK, axis=0), 1.0)
    distance_N = np.linalg.norm((values_NK.max(axis=0) - values_NK) / span_K, axis=1)
    return records[int(distance_N.argmin())]


class Price(NamedTuple):
    """A point of the front, and the prices at which it is the best."""

    record: TrialRecord
    low: float
    """Smallest price: what one unit of the first objective is worth, in units of the second."""
    high: float


def price_list(config: StudyConfig, records: Sequence[TrialRecord]) -> list[Price]:
    """The points of the front with the largest price · first objective + second objective, as the price rises from 0.

    These are the points of the front's upper convex hull; a point of the front below it is the best at no price.

    Args:
        config: of the study.
        records: of its trials, measured or `expected`.

    Returns:
        Prices that begin where the one before ends; none unless the first two objectives are accuracies.
    """
    names = list(config.objectives)[:2]
    if len(names) < 2 or any(find_metric(n).images is None or config.objectives[n] != "maximize" for n in names):
        return []
    best: list[Price] = []
    for record in reversed(find_front(config, records).members):  # the first objective rises
        low = 0.0
        while best and (low := _crossing(best[-1].record, record, names)) <= best[-1].low:
            best.pop()  # the record is better wherever the one before would be the best
            low = 0.0
        if math.isfinite(low):
            best[-1:] = [best[-1]._replace(high=low)] if best else []
            best.append(Price(record, low, math.inf))
    return best


def _crossing(one: TrialRecord, other: TrialRecord, names: Sequence[str]) -> float:
    """The price above which the other is better; its first objective is at least as large."""
    (x, y), (other_x, other_y) = one.values(names), other.values(names)
    if other_x == x:
        return -math.inf if other_y > y else math.inf
    return (y - other_y) / (other_x - x)


def cost_ladder(
    config: StudyConfig, records: Sequence[TrialRecord], *, metric: str = "", cost: str = "crop_passes"
) -> list[TrialRecord]:
    """The finished trials, at their best operating points, that are better in a metric than every cheaper one.

    The cheapest comes first.

    Args:
        config: of the study.
        records: of its trials.
        metric: an objective; empty: that of `headline`.
        cost: metric that is paid.
    """
    metric = metric or headline(config)
    front = find_front(config, records)
    trials = [r for r in [*front.members, *front.dominated] if math.isfinite(r.value(cost))]
    values = np.array([[record.value(metric), record.value(cost)] for record in trials]).reshape(-1, 2)
    mask = pareto_front(values, [config.objectives[metric], "minimize"])
    chosen = sorted((r for r, on in zip(trials, mask, strict=True) if on), key=lambda r: (r.value(cost), r.number))
    return [r for place, r in enumerate(chosen) if not place or r.value(metric) != chosen[place - 1].value(metric)]


def headline(config: StudyConfig) -> str:
    """The main objective: robust accuracy, else the first that is a result, else the first."""
    results = [name for name in config.objectives if find_metric(name).role == "result"]
    return "robust_accuracy" if "robust_accuracy" in results else [*results, *config.objectives][0]

"""Statistics of a front that was trained again with fresh seeds: means, intervals, and front probabilities.

A search keeps the best of many noisy values, so these are optimistic (winner's curse). Fresh seeds show by how much.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import pareto_front, signs
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Column, Statistic, Table, metric_column, setting_column

Array = npt.NDArray[np.float64]
LEVELS = (0.2, 0.5, 0.8)
TESTED = ("clean_accuracy", "robust_accuracy")
"""Metrics that a confirmation measures on the test split; all others are those of the fresh run itself."""
MEAN: tuple[Statistic, ...] = ("mean", "low", "high")
MEAN_AGAIN: tuple[Statistic, ...] = ("again_mean", "again_low", "again_high")


class FreshRun(NamedTuple):
    """A candidate trained with a fresh seed; a metric that was not measured is NaN or left out."""

    tested: Mapping[str, float]
    """Objectives and attacks: accuracies on the test split, robust accuracy under the strongest attack."""
    again: Mapping[str, float]
    """Objectives among `TESTED` as the search measures them: on validation images, under its own attack."""


class Summary(NamedTuple):
    """A metric over fresh seeds."""

    values: tuple[float, ...]
    """One for each seed."""
    mean: float
    """NaN without a seed."""
    interval: tuple[float, float]
    """Student's 95 % interval of the mean; NaN with fewer than two seeds."""


@dataclass(frozen=True)
class Confirmation:
    """A candidate of the search, trained again with fresh seeds."""

    record: TrialRecord
    """Its trial in the search."""
    tested: Mapping[str, Summary]
    """As `FreshRun.tested`."""
    again: Mapping[str, Summary]
    """As `FreshRun.again`."""
    front_probability: float
    """Share of bootstrap resamples over seeds in which its mean is on the front of all candidates; NaN without one."""
    searched: Mapping[str, float]
    """The values of the objectives that the search saw."""
    optimism: Mapping[str, float]
    """By how much the searched values were better than the means over fresh seeds (winner's curse)."""

    @property
    def seeds(self) -> int:
        """Number of fresh runs with all metrics."""
        return len(next(iter(self.tested.values())).values)


def candidates(config: StudyConfig, records: Sequence[TrialRecord], *, tolerance: float) -> list[TrialRecord]:
    """The trials to train again: the front and what is near it.

    A trial is near the front if no trial dominates it once all its objectives are improved by a share of the front's
    range (additive ε-dominance).

    Args:
        config: of the study.
        records: of its trials.
        tolerance: this share.

    Returns:
        members of the front, then the others by number; of several trials at one point only the first.
    """
    front = find_front(config, records)
    complete = sorted(front.members + front.dominated, key=lambda record: record.number)
    if not complete:
        return []
    signs_K = signs(config.objectives.values())
    values_NK = np.array([record.values(config.objectives) for record in complete]) * signs_K
    span_K = np.ptp([record.values(config.objectives) for record in front.members], axis=0)
    span_K = np.where(span_K > 0, span_K, np.ptp(values_NK, axis=0))
    better = ["maximize"] * len(signs_K)
    near = [
        pareto_front(np.vstack([values_K + tolerance * span_K, np.delete(values_NK, place, axis=0)]), better)[0]
        for place, values_K in enumerate(values_NK)
    ]
    members = {record.number for record in front.members}
    chosen = front.members + [
        r for r, is_near in zip(complete, near, strict=True) if is_near and r.number not in members
    ]
    first = {repr(sorted(record.point.items())): record for record in reversed(complete)}
    return [record for record in chosen if first[repr(sorted(record.point.items()))] is record]


def confirm(
    objectives: Mapping[str, str],
    searched: Sequence[TrialRecord],
    fresh: Mapping[int, Sequence[FreshRun]],
    *,
    attacks: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> list[Confirmation]:
    """Compare the values that the search saw with fresh runs of the same points.

    Args:
        objectives: metric and direction; the front is over these.
        searched: the candidates.
        fresh: the fresh runs of each candidate, by its number; a run that misses a metric is left out.
        attacks: further metrics of the test split.
        resamples: of the bootstrap.
        seed: of the bootstrap; each candidate is resampled independently.
    """
    tested, again = list(dict.fromkeys([*objectives, *attacks])), [name for name in objectives if name in TESTED]

    def is_complete(run: FreshRun) -> bool:
        values = [run.tested.get(name, math.nan) for name in tested] + [run.again.get(name, math.nan) for name in again]
        return all(map(math.isfinite, values))

    complete = {record.number: list(filter(is_complete, fresh.get(record.number, ()))) for record in searched}
    probability = _front_probabilities(objectives, complete, resamples=resamples, seed=seed)
    confirmed = []
    for record in searched:
        group = complete[record.number]
        summaries = {name: _summary([run.tested[name] for run in group]) for name in tested}
        saw = {name: record.value(name) for name in objectives}
        confirmed.append(
            Confirmation(
                record=record,
                tested=summaries,
                again={name: _summary([run.again[name] for run in group]) for name in again},
                front_probability=probability.get(record.number, math.nan),
                searched=saw,
                optimism={
                    name: float(sign * (saw[name] - summaries[name].mean))
                    for name, sign in zip(objectives, signs(objectives.values()), strict=True)
                },
            )
        )
    return confirmed


def _front_probabilities(
    objectives: Mapping[str, str], runs: Mapping[int, Sequence[FreshRun]], *, resamples: int, seed: int
) -> dict[int, float]:
    """Share of the resamples over seeds in which each candidate with a run is on the front of all of them."""
    values = {n: np.array([[run.tested[name] for name in objectives] for run in group]) for n, group in runs.items()}
    known = {number: values_nK for number, values_nK in values.items() if len(values_nK)}
    if not known:
        return {}
    means_CRK = [_resampled_means(values_nK, resamples, (seed, number)) for number, values_nK in known.items()]
    directions = list(objectives.values())
    on_front_RC = [pareto_front(means_CK, directions) for means_CK in np.stack(means_CRK, axis=1)]
    return dict(zip(known, map(float, np.mean(on_front_RC, axis=0)), strict=True))


def _resampled_means(values_nK: Array, resamples: int, seed: tuple[int, int]) -> Array:
    rows = np.random.default_rng(seed).integers(len(values_nK), size=(resamples, len(values_nK)))
    means: Array = values_nK[rows].mean(axis=1)
    return means


def _summary(values: Sequence[float]) -> Summary:
    if not values:
        return Summary((), math.nan, (math.nan, math.nan))
    mean, half = float(np.mean(values)), math.nan
    if len(values) > 1:  # scipy's t.interval has none where all values are equal
        half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Summary(tuple(map(float, values)), mean, (mean - half, mean + half))


def attainment(
    objectives: Mapping[str, str], fronts: Sequence[npt.ArrayLike], levels: Sequence[float] = LEVELS
) -> dict[float, Array]:
    """Empirical attainment surfaces (Fonseca et al. 2011): what at least a given share of the runs reaches.

    Args:
        objectives: metric and direction; two or three.
        fronts: objective vectors of each run, (n, k).
        levels: the shares, above 0 and up to 1.

    Returns:
        the corner points of the surface of each level, sorted by the first objective.

    Raises:
        ValueError: for another number of objectives, or a level out of range.
    """
    import moocore  # noqa: PLC0415 (a machine that only trains need not have it)

    if len(objectives) not in (2, 3):
        raise ValueError(f"attainment surfaces are computed for 2 or 3 objectives, not {len(objectives)}")
    if not all(0 < level <= 1 for level in levels):
        raise ValueError(f"levels must lie above 0 and not exceed 1, not {list(levels)}")
    signs_K = signs(objectives.values())
    runs = [np.asarray(front, dtype=float).reshape(-1, len(objectives)) for front in fronts]
    points = np.concatenate(runs) * -signs_K  # moocore minimises
    sets = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    surfaces = {}
    for level in levels:
        surface = moocore.eaf(points, sets=sets, percentiles=[100 * level])[:, :-1] * -signs_K
        surfaces[level] = surface[np.argsort(surface[:, 0], kind="stable")]
    return surfaces


def confirmation_columns(objectives: Iterable[str], attacks: Iterable[str]) -> list[Column]:
    """Columns of confirm.csv before those of the point."""
    names = list(objectives)
    again = [name for name in names if name in TESTED]
    return [
        Column("trial_id"),
        Column("seeds"),
        Column("front_probability", "probability of being on the front", "fraction"),
        *(metric_column(name, part) for name in names for part in (*MEAN, "searched", "optimism")),
        *(metric_column(name, part) for name in again for part in MEAN_AGAIN),
        *(metric_column(name, part) for name in attacks for part in MEAN),
    ]


def confirmation_table(confirmed: Sequence[Confirmation], config: StudyConfig) -> Table:
    """One row per candidate; a value that is missing is None."""
    attacks = config.confirm.attacks if config.confirm else ()
    columns = [*confirmation_columns(config.objectives, attacks), *map(setting_column, config.space)]
    return Table("confirm", "With fresh seeds, on test images", columns, [_row(one) for one in confirmed])


def _row(one: Confirmation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial_id": one.record.trial_id,
        "seeds": one.seeds,
        "front_probability": one.front_probability,
    }
    for summaries, statistics in ((one.tested, MEAN), (one.again, MEAN_AGAIN)):
        for name, (_, mean, interval) in summaries.items():
            for statistic, value in zip(statistics, (mean, *interval), strict=True):
                row[metric_column(name, statistic).name] = value
    for name in one.searched:
        row[metric_column(name, "searched").name] = one.searched[name]
        row[metric_column(name, "optimism").name] = one.optimism[name]
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return {**finite, **one.record.point}

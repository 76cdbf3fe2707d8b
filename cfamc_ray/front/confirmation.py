"""Statistics of a front that was trained again with fresh seeds: means, intervals, and front probabilities.

A search keeps the best of many noisy values, so these are optimistic (winner's curse). Fresh seeds show by how much.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.candidates import without_seed
from cfamc_ray.front.dominance import pareto_front, signs
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2, Column, Statistic, Table, metric_column, setting_column
from cfamc_ray.store.trial_tables import settings_columns

Array = npt.NDArray[np.float64]
Key = tuple[int, int | None]
"""Key of a record at an operating point, as `TrialRecord.key`."""
LEVELS = (0.2, 0.5, 0.8)
TESTED = ("clean_accuracy", "robust_accuracy")
"""Metrics that a confirmation measures on the test split; all others are those of the fresh run itself."""
MEAN: tuple[Statistic, ...] = ("mean", "low", "high")
SEARCHED: tuple[Statistic, ...] = (*MEAN, "searched", "optimism")
SEARCHED_AND_AGAIN: tuple[Statistic, ...] = (*SEARCHED, "selection")
STRENGTH = setting_column(L2)
"""Column of the L2 strength of an operating point."""
MEAN_AGAIN: tuple[Statistic, ...] = ("again_mean", "again_low", "again_high")


class FreshRun(NamedTuple):
    """A candidate trained with a fresh seed; a metric that was not measured is NaN or left out."""

    seed: int
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
    """Its trial in the search, at the operating point that is confirmed."""
    fresh_seeds: tuple[int, ...]
    """Seeds of the fresh runs that have all metrics."""
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
    selection: Mapping[str, float]
    """By how much the searched values were better than the means of `again`: the part of the optimism that comes from
    the luck of a seed and from choosing trial and strength on validation images."""

    @property
    def seeds(self) -> int:
        """Number of fresh runs with all metrics."""
        return len(self.fresh_seeds)


def confirm(
    objectives: Mapping[str, str],
    searched: Sequence[TrialRecord],
    fresh: Mapping[Key, Sequence[FreshRun]],
    *,
    attacks: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> list[Confirmation]:
    """Compare the values that the search saw with fresh runs of the same operating points.

    Args:
        objectives: metric and direction; the front is over these.
        searched: the candidates, at their operating points.
        fresh: the fresh runs of each candidate, by its key; a run that misses a metric is left out.
        attacks: further metrics of the test split.
        resamples: of the bootstrap.
        seed: of the bootstrap. Operating points of the same fresh encoders share their resamples; others are
            resampled independently.
    """
    tested, again = list(dict.fromkeys([*objectives, *attacks])), [name for name in objectives if name in TESTED]

    def is_complete(run: FreshRun) -> bool:
        values = [run.tested.get(name, math.nan) for name in tested] + [run.again.get(name, math.nan) for name in again]
        return all(map(math.isfinite, values))

    complete = {record.key: list(filter(is_complete, fresh.get(record.key, ()))) for record in searched}
    probability = _front_probabilities(objectives, searched, complete, resamples=resamples, seed=seed)
    sign = dict(zip(objectives, signs(objectives.values()), strict=True))
    confirmed = []
    for record in searched:
        group = complete[record.key]
        of_test = {name: summarize([run.tested[name] for run in group]) for name in tested}
        of_again = {name: summarize([run.again[name] for run in group]) for name in again}
        saw = {name: record.value(name) for name in objectives}
        confirmed.append(
            Confirmation(
                record=record,
                fresh_seeds=tuple(run.seed for run in group),
                tested=of_test,
                again=of_again,
                front_probability=probability.get(record.key, math.nan),
                searched=saw,
                optimism={name: float(sign[name] * (saw[name] - of_test[name].mean)) for name in objectives},
                selection={name: float(sign[name] * (saw[name] - of_again[name].mean)) for name in again},
            )
        )
    return confirmed


def _front_probabilities(
    objectives: Mapping[str, str],
    searched: Sequence[TrialRecord],
    runs: Mapping[Key, Sequence[FreshRun]],
    *,
    resamples: int,
    seed: int,
) -> dict[Key, float]:
    """Share of the resamples over seeds in which each candidate with a run is on the front of all of them."""
    groups: dict[Hashable, list[TrialRecord]] = defaultdict(list)
    for record in searched:
        if runs[record.key]:
            groups[without_seed(record)].append(record)
    means: dict[Key, Array] = {}
    for group in groups.values():
        seeds = sorted({run.seed for record in group for run in runs[record.key]})
        generator = np.random.default_rng((seed, min(record.number for record in group)))
        drawn_RS = generator.integers(len(seeds), size=(resamples, len(seeds)))
        for record in group:
            by_seed = {run.seed: [run.tested[name] for name in objectives] for run in runs[record.key]}
            values_SK = np.array([by_seed.get(each, [math.nan] * len(objectives)) for each in seeds])
            means[record.key] = _known_means(values_SK[drawn_RS])
    if not means:
        return {}
    means_RCK = np.stack(list(means.values()), axis=1)
    on_front_RC = np.array([pareto_front(means_CK, list(objectives.values())) for means_CK in means_RCK])
    known_C = np.isfinite(means_RCK).all(axis=-1).sum(axis=0)
    share_C = np.divide(on_front_RC.sum(axis=0), known_C, out=np.full(len(means), math.nan), where=known_C > 0)
    return dict(zip(means, share_C.tolist(), strict=True))


def _known_means(drawn_RSK: Array) -> Array:
    """Mean over the seeds that have values, (R, K); NaN in resamples where none has."""
    known_R1 = np.isfinite(drawn_RSK).all(axis=-1).sum(axis=1)[:, None]
    total_RK = np.nansum(drawn_RSK, axis=1)
    means_RK: Array = np.divide(total_RK, known_R1, out=np.full_like(total_RK, math.nan), where=known_R1 > 0)
    return means_RK


def summarize(values: Sequence[float]) -> Summary:
    """Mean and interval of a value for each seed."""
    if not values:
        return Summary((), math.nan, (math.nan, math.nan))
    mean, half = float(np.mean(values)), math.nan
    if len(values) > 1:
        half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))
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
    return [
        Column("trial_id"),
        STRENGTH,
        Column("seeds"),
        Column("front_probability", "probability of being on the front", "fraction"),
        *(metric_column(name, part) for name in names for part in (SEARCHED_AND_AGAIN if name in TESTED else SEARCHED)),
        *(metric_column(name, part) for name in names if name in TESTED for part in MEAN_AGAIN),
        *(metric_column(name, part) for name in attacks for part in MEAN),
    ]


def confirmation_table(confirmed: Sequence[Confirmation], config: StudyConfig) -> Table:
    """One row per candidate; a value that is missing is None."""
    attacks = config.confirm.attacks if config.confirm else ()
    settings = [column for column in settings_columns(config, [one.record for one in confirmed]) if column != STRENGTH]
    columns = [*confirmation_columns(config.objectives, attacks), *settings]
    return Table("confirm", "With fresh seeds, on test images", columns, [_row(one) for one in confirmed])


def _row(one: Confirmation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial_id": one.record.trial_id,
        STRENGTH.name: one.record.l2,
        "seeds": one.seeds,
        "front_probability": one.front_probability,
    }
    for summaries, statistics in ((one.tested, MEAN), (one.again, MEAN_AGAIN)):
        for name, (_, mean, interval) in summaries.items():
            for statistic, value in zip(statistics, (mean, *interval), strict=True):
                row[metric_column(name, statistic).name] = value
    of_search: dict[Statistic, Mapping[str, float]] = {
        "searched": one.searched,
        "optimism": one.optimism,
        "selection": one.selection,
    }
    for statistic, values in of_search.items():
        row |= {metric_column(name, statistic).name: value for name, value in values.items()}
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return {**finite, **one.record.point}

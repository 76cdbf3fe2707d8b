"""What fresh seeds say about a front: means, intervals, and how likely each point is to belong to it.

A search keeps the best of what it has seen, and the best of noisy values is partly luck. Points trained again with
other seeds show how much.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import pareto_front
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord

Array = npt.NDArray[np.float64]
LEVELS = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Confirmation:
    """A point of the search, trained again with fresh seeds."""

    record: TrialRecord
    """Of the search."""
    values: Mapping[str, tuple[float, ...]]
    """Metric to its values, one for each fresh seed."""
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """Student's, of 95 %; NaN with fewer than two seeds."""
    front_probability: float
    """Share of bootstrap resamples over seeds whose mean is on the front of all candidates."""
    searched: Mapping[str, float]
    """What the search had seen."""
    optimism: Mapping[str, float]
    """How much better that was than the mean of the fresh seeds, in the direction of the objective."""

    @property
    def seeds(self) -> int:
        """Fresh runs with all metrics."""
        return len(next(iter(self.values.values()), ()))


def candidates(config: StudyConfig, records: Sequence[TrialRecord], *, tolerance: float) -> list[TrialRecord]:
    """The front and what is near it: worth to be trained again.

    A trial is near the front if no trial dominates it any more once all its objectives are improved by a share of the
    front's range (additive ε-dominance).

    Args:
        config: of the study.
        records: of its trials.
        tolerance: this share.

    Returns:
        members of the front, then the others by number; of trials at the same point the first alone.
    """
    front = find_front(config, records)
    complete = sorted(front.members + front.dominated, key=lambda record: record.number)
    if not complete:
        return []
    signs_K = _signs(config.objectives)
    values_NK = np.array([record.values(config.objectives) for record in complete]) * signs_K
    span_K = np.ptp([record.values(config.objectives) for record in front.members], axis=0)
    span_K = np.where(span_K > 0, span_K, np.ptp(values_NK, axis=0))
    near = [
        not _dominated(values_K + tolerance * span_K, np.delete(values_NK, place, axis=0))
        for place, values_K in enumerate(values_NK)
    ]
    members = {record.number for record in front.members}
    chosen = front.members + [
        r for r, is_near in zip(complete, near, strict=True) if is_near and r.number not in members
    ]
    first = {repr(sorted(record.point.items())): record for record in reversed(complete)}
    return [record for record in chosen if first[repr(sorted(record.point.items()))] is record]


def _dominated(point_K: Array, others_NK: Array) -> bool:
    return bool(((others_NK >= point_K).all(axis=1) & (others_NK > point_K).any(axis=1)).any())


def confirm(
    objectives: Mapping[str, str],
    searched: Sequence[TrialRecord],
    fresh: Mapping[int, Sequence[Mapping[str, float]]],
    *,
    extra: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> list[Confirmation]:
    """Compare what the search saw with fresh runs of the same points.

    Args:
        objectives: metric and direction; the front is over these.
        searched: the candidates.
        fresh: metrics of every fresh run, by the candidate's number; a run that misses one is left out.
        extra: further metrics to summarise.
        resamples: of the bootstrap.
        seed: of the bootstrap; each candidate draws by itself.
    """
    metrics = [*objectives, *extra]
    values = {record.number: _complete(fresh.get(record.number, ()), metrics) for record in searched}
    known = [record.number for record in searched if len(values[record.number])]
    means_RCK = (
        np.stack(
            [_resampled_means(values[number][:, : len(objectives)], resamples, (seed, number)) for number in known],
            axis=1,
        )
        if known
        else np.empty((resamples, 0, len(objectives)))
    )
    directions = list(objectives.values())
    on_front_C = np.mean([pareto_front(means_CK, directions) for means_CK in means_RCK], axis=0)
    probability = dict(zip(known, map(float, on_front_C), strict=True))
    return [
        _confirmed(record, values[record.number], metrics, objectives, probability.get(record.number, math.nan))
        for record in searched
    ]


def _complete(runs: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> Array:
    """Runs that have all metrics, (n, metrics)."""
    table = np.array([[run.get(name, math.nan) for name in metrics] for run in runs], dtype=float)
    table = table.reshape(-1, len(metrics))
    complete: Array = table[np.isfinite(table).all(axis=1)]
    return complete


def _resampled_means(values_nK: Array, resamples: int, seed: tuple[int, int]) -> Array:
    rows = np.random.default_rng(seed).integers(len(values_nK), size=(resamples, len(values_nK)))
    means: Array = values_nK[rows].mean(axis=1)
    return means


def _confirmed(
    record: TrialRecord, values: Array, metrics: Sequence[str], objectives: Mapping[str, str], probability: float
) -> Confirmation:
    means = values.mean(axis=0) if len(values) else np.full(len(metrics), math.nan)
    searched = {name: record.value(name) for name in metrics}
    gained = zip(objectives, _signs(objectives), means[: len(objectives)], strict=True)
    return Confirmation(
        record=record,
        values={name: tuple(map(float, column)) for name, column in zip(metrics, values.T, strict=True)},
        means=dict(zip(metrics, map(float, means), strict=True)),
        intervals={name: _interval(column) for name, column in zip(metrics, values.T, strict=True)},
        front_probability=probability,
        searched=searched,
        optimism={name: float(sign * (searched[name] - mean)) for name, sign, mean in gained},
    )


def _interval(values: Array) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _signs(objectives: Mapping[str, str]) -> Array:
    return np.array([1.0 if direction == "maximize" else -1.0 for direction in objectives.values()])


def attainment(
    objectives: Mapping[str, str], fronts: Sequence[npt.ArrayLike], levels: Sequence[float] = LEVELS
) -> dict[float, Array]:
    """Empirical attainment surfaces (Fonseca et al. 2011): what at least a share of the runs reaches.

    Args:
        objectives: metric and direction; two or three.
        fronts: of every run its objective vectors, (n, k).
        levels: the shares, above 0 and up to 1.

    Returns:
        of each level the corner points of its surface, by the first objective.

    Raises:
        ValueError: for another number of objectives, or a level out of range.
    """
    import moocore  # noqa: PLC0415 (a machine that only trains need not have it)

    if len(objectives) not in (2, 3):
        raise ValueError(f"attainment surfaces are computed for 2 or 3 objectives, not {len(objectives)}")
    if not all(0 < level <= 1 for level in levels):
        raise ValueError(f"levels must lie above 0 and not exceed 1, not {list(levels)}")
    signs_K = _signs(objectives)
    runs = [np.asarray(front, dtype=float).reshape(-1, len(objectives)) for front in fronts]
    points = np.concatenate(runs) * -signs_K  # moocore minimises
    sets = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    found = {}
    for level in levels:
        surface = moocore.eaf(points, sets=sets, percentiles=[100 * level])[:, :-1] * -signs_K
        found[level] = surface[np.argsort(surface[:, 0], kind="stable")]
    return found


def confirmation_table(confirmed: Sequence[Confirmation], objectives: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per candidate; what is not known is None."""
    table = []
    for found in confirmed:
        row: dict[str, Any] = {
            "trial_id": found.record.trial_id,
            "seeds": found.seeds,
            "front_probability": found.front_probability,
        }
        for name, mean in found.means.items():
            low, high = found.intervals[name]
            row |= {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}
            if name in objectives:
                row |= {f"{name}_searched": found.searched[name], f"{name}_optimism": found.optimism[name]}
        table.append({**{key: _known(value) for key, value in row.items()}, **found.record.point})
    return table


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

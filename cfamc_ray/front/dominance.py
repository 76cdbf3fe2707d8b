"""Fronts and hypervolumes of objective vectors."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

Values = npt.ArrayLike
"""n points with k objectives, (n, k)."""


def signs(directions: Iterable[str]) -> npt.NDArray[np.float64]:
    """1 for an objective that is maximised, -1 for one that is minimised; values times signs are better if larger.

    Raises:
        ValueError: for another direction than ``maximize`` and ``minimize``.
    """
    names = list(directions)
    if unknown := set(names) - {"maximize", "minimize"}:
        raise ValueError(f"directions must be maximize or minimize, not {sorted(unknown)}")
    return np.array([1.0 if name == "maximize" else -1.0 for name in names])


def pareto_front(values: Values, directions: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mask of the points that no other point dominates.

    A point dominates another if it is at least as good in all objectives and better in at least one; of equal points
    on the front, all are on it. A point with a value that is not finite is never on the front and dominates nothing.

    Args:
        values: (n, k).
        directions: ``maximize`` or ``minimize`` for each objective.

    Returns:
        a mask of n truth values.
    """
    import moocore  # noqa: PLC0415 (a machine that only trains need not have it)

    costs = _as_costs(values, directions)
    mask: npt.NDArray[np.bool_] = np.asarray(np.isfinite(costs).all(axis=1))
    if mask.any():
        mask[mask] = moocore.is_nondominated(costs[mask], keep_weakly=True)
    return mask


def best_first(values: Values, directions: Sequence[str]) -> list[int]:
    """Rows from the best to the worst: by non-dominated rank, and within a rank by spread.

    In each rank the point nearest to the ideal point comes first, then repeatedly the one farthest from those before
    it, with each objective scaled to its range (Schmucker et al., arXiv 2106.12639). Points with a value that is not
    finite come last.

    Args:
        values: (n, k).
        directions: ``maximize`` or ``minimize`` for each objective.
    """
    import moocore  # noqa: PLC0415 (a machine that only trains need not have it)

    costs = _as_costs(values, directions)
    known = np.isfinite(costs).all(axis=1)
    order: list[int] = []
    if known.any():
        finite = costs[known]
        span = np.ptp(finite, axis=0)
        scaled = np.divide(finite - finite.min(axis=0), span, out=np.zeros_like(finite), where=span > 0)
        ranks = moocore.pareto_rank(finite)
        for rank in range(ranks.max() + 1):
            rows = np.flatnonzero(ranks == rank)
            rows = rows[np.argsort(scaled[rows].sum(axis=1), kind="stable")]
            order += [int(rows[0]), *(int(rows[row]) for row in farthest_first(scaled[rows], [0]))]
    return [*np.flatnonzero(known)[order].tolist(), *np.flatnonzero(~known).tolist()]


def best_groups_first(groups: Sequence[Values], directions: Sequence[str]) -> list[int]:
    """Indices of groups of points from the best to the worst: a group is as good as the best of its points.

    Args:
        groups: points of each group, (n, k) with n of at least 1.
        directions: ``maximize`` or ``minimize`` for each objective.
    """
    owners = np.repeat(np.arange(len(groups)), [len(np.asarray(points)) for points in groups])
    order = best_first(np.concatenate([np.asarray(points, dtype=float) for points in groups]), directions)
    return list(dict.fromkeys(owners[order].tolist()))


def farthest_first(places: npt.NDArray[np.float64], begun: Sequence[int]) -> Iterator[int]:
    """Indices of all other rows, each the farthest from those before it.

    Args:
        places: coordinates, (n, f).
        begun: indices of the rows that come before all others.
    """
    gaps = np.full(len(places), np.inf)

    def near(row: int) -> None:
        np.minimum(gaps, np.linalg.norm(places - places[row], axis=1), out=gaps)
        gaps[row] = -1.0  # below every distance, so it is not chosen again

    for row in begun:
        near(row)
    for _ in range(len(places) - len(begun)):
        row = int(gaps.argmax())
        yield row
        near(row)


def hypervolume(values: Values, reference: Sequence[float], directions: Sequence[str]) -> float:
    """Volume that the points dominate, bounded by a reference point.

    Args:
        values: (n, k); points with a value that is not finite, or that are not better than the reference in all
            objectives, add nothing.
        reference: the worst values that count, one for each objective.
        directions: ``maximize`` or ``minimize`` for each objective.

    Returns:
        the volume, in the product of the objectives' units; 0 without points.
    """
    import moocore  # noqa: PLC0415 (a machine that only trains need not have it)

    costs = _as_costs(values, directions)
    worst = _as_costs([reference], directions)[0]
    counted = costs[np.isfinite(costs).all(axis=1) & (costs < worst).all(axis=1)]
    if len(counted) == 0:
        return 0.0
    if counted.shape[1] == 1:
        return float(worst[0] - counted.min())
    return float(moocore.hypervolume(counted, ref=worst))


def _as_costs(values: Values, directions: Sequence[str]) -> npt.NDArray[np.float64]:
    """The values with signs such that smaller is better."""
    costs_per_unit = -signs(directions)
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, len(directions))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ValueError(f"values of shape {array.shape} do not go with {len(directions)} directions")
    costs: npt.NDArray[np.float64] = array * costs_per_unit
    return costs


def representative(
    signed: Sequence[npt.NDArray[np.float64]], places: Sequence[Sequence[float]], most: int, *, latest: int = 0
) -> list[int]:
    """Indices of at most so many trials that say most about their front; all if there are no more.

    Half of them are the best by non-dominated rank, then come the latest, and the others are added one by one, each the
    farthest from all chosen ones.

    Args:
        signed: points of each trial, (n, k), signed so that more is better; NaN where they are not known.
        places: coordinates of each trial.
        most: largest number of trials.
        latest: number of the last trials that are among them.
    """
    if len(signed) <= most:
        return list(range(len(signed)))
    known = sum(bool(np.isfinite(points).all()) for points in signed)
    best = best_groups_first(signed, ["maximize"] * signed[0].shape[-1])[: min(most // 2, known)]
    begun = list(dict.fromkeys([*best, *range(len(signed) - latest, len(signed))]))
    return sorted([*begun, *islice(farthest_first(np.array(places), begun), most - len(begun))])

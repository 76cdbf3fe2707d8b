"""Fronts and hypervolumes of objective vectors."""

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

Values = npt.ArrayLike
"""n points with k objectives, (n, k)."""


def pareto_front(values: Values, directions: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates.

    A point dominates another if it is at least as good in all objectives and better in one; so equal points of the
    front are all on it. A point with a value that is not finite is never on the front and dominates nothing.

    Args:
        values: (n, k).
        directions: ``maximize`` or ``minimize`` for each objective.

    Returns:
        a mask of n truth values.
    """
    costs = _as_costs(values, directions)
    finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(costs).all(axis=1))
    mask = finite.copy()
    known = costs[finite]
    no_worse = (known[:, None] <= known[None]).all(axis=2)
    better = (known[:, None] < known[None]).any(axis=2)
    mask[finite] = ~(no_worse & better).any(axis=0)
    return mask


def hypervolume(values: Values, reference: Sequence[float], directions: Sequence[str]) -> float:
    """Volume that the points dominate, up to a reference point.

    Args:
        values: (n, k); points with a value that is not finite, or that are not better than the reference in all
            objectives, add nothing.
        reference: the worst values that count, one for each objective.
        directions: ``maximize`` or ``minimize`` for each objective.

    Returns:
        the volume, in the product of the objectives' units; 0 without points.
    """
    costs = _as_costs(values, directions)
    worst = _as_costs([reference], directions)[0]
    counted = costs[np.isfinite(costs).all(axis=1) & (costs < worst).all(axis=1)]
    if len(counted) == 0:
        return 0.0
    if counted.shape[1] == 1:
        return float(worst[0] - counted.min())
    return float(moocore.hypervolume(counted, ref=worst))


def _as_costs(values: Values, directions: Sequence[str]) -> npt.NDArray[np.float64]:
    """The values with signs such that less is better."""
    unknown = set(directions) - {"maximize", "minimize"}
    if unknown:
        raise ValueError(f"directions must be maximize or minimize, not {sorted(unknown)}")
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, len(directions))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ValueError(f"values of shape {array.shape} do not go with {len(directions)} directions")
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
    costs: npt.NDArray[np.float64] = array * signs
    return costs

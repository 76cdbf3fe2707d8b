"""How much of what trials reach is due to the head's L2 strength, and how much to training.

Trials times L2 strengths form a two-way table of accuracies: a row is the curve of a trial, a column is what a search
with one fixed strength would have seen.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.front import find_front
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord


class Spread(NamedTuple):
    """How far a metric ranges within trials and between them."""

    head: float
    """Range over the strengths of one trial, the median over trials."""
    training: float
    """Range over the trials at one strength, the median over strengths."""


class Curves(NamedTuple):
    """What the operating points of the trials add to the front."""

    spreads: Mapping[str, Spread]
    """By objective, for those that differ between operating points."""
    best_l2: float
    """The single strength whose points have the largest hypervolume if all trials use it."""
    gain: float
    """Hypervolume of all operating points divided by that of the best single strength; NaN if that is zero."""


def find_curves(config: StudyConfig, records: Sequence[TrialRecord]) -> Curves | None:
    """Compare the strengths of each trial with the trials at each strength.

    Args:
        config: of the study.
        records: of its trials; only finished ones with several operating points and all objectives count.

    Returns:
        None with fewer than two such trials, or fewer than two strengths that all of them share.
    """
    points = [record.each_point(config.objectives) for record in records if record.status == "finished"]
    curves = [_by_strength(curve) for curve in points if len(curve) > 1 and _is_complete(curve, config.objectives)]
    shared = sorted(set.intersection(*map(set, curves))) if len(curves) > 1 else []
    if len(shared) < 2:
        return None
    spreads = {}
    for name in (name for name in config.objectives if find_metric(name).images):
        values_NL = np.array([[curve[l2].value(name) for l2 in shared] for curve in curves])
        spreads[name] = Spread(*(float(np.median(np.ptp(values_NL, axis=axis))) for axis in (1, 0)))
    every = find_front(config, [point for curve in curves for point in curve.values()])
    volumes = {
        l2: find_front(config, [curve[l2] for curve in curves], reference=every.reference).hypervolume for l2 in shared
    }
    best = max(volumes, key=lambda l2: volumes[l2])
    return Curves(spreads, best, every.hypervolume / volumes[best] if volumes[best] > 0 else math.nan)


def _by_strength(curve: Sequence[TrialRecord]) -> dict[float, TrialRecord]:
    return {point.l2: point for point in curve if point.l2 is not None}


def _is_complete(curve: Sequence[TrialRecord], objectives: Collection[str]) -> bool:
    return bool(np.isfinite([point.values(objectives) for point in curve]).all())

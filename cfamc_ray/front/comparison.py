"""Comparison of studies: whose front is better, and whether the difference is significant."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import hypervolume, signs
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.store.records import TrialRecord

Array = npt.NDArray[np.float64]
FEWEST = 5
"""Finished trials of a study from which the bootstrap can tell anything."""


class Comparison(NamedTuple):
    """A study's front compared with that of the first study; all hypervolumes have the same reference."""

    name: str
    front: Front
    crop_passes: float
    """Sum over its trials."""
    gain: float
    """Hypervolume minus that of the first study."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the gain, the trials of both studies resampled; NaN where either has fewer finished
    trials than `FEWEST`."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


def compare_studies(
    studies: Sequence[tuple[StudyConfig, Sequence[TrialRecord]]], *, resamples: int = 2000, seed: int = 0
) -> list[Comparison]:
    """Hypervolumes with a common reference, and the gain of each study over the first.

    The bootstrap resamples trials, each with its operating points, not seeds: it shows how much a front depends on
    single trials. A resample misses some points of the front, so its hypervolume is smaller on average; this bias is
    subtracted.

    Args:
        studies: config and records of each; at least one.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: where the studies have different objectives.
    """
    objectives = studies[0][0].objectives
    for config, _ in studies:
        if config.objectives != objectives:
            raise InputError(
                f"{config.name}: its objectives are {dict(config.objectives)}, those of {studies[0][0].name} "
                f"{dict(objectives)}: only equal ones can be compared"
            )
    # Their order, which decides that of values and references, may differ.
    studies = [(config.model_copy(update={"objectives": objectives}), records) for config, records in studies]
    signs_K = signs(objectives.values())
    references = np.array([find_front(config, records).reference for config, records in studies]) * signs_K
    reference = (references.min(axis=0) * signs_K).tolist()
    fronts = [find_front(config, records, reference=reference) for config, records in studies]
    drawn = [_resampled(front, resamples, (seed, place)) for place, front in enumerate(fronts)]
    comparisons = []
    for (config, records), front, volume_R in zip(studies, fronts, drawn, strict=True):
        gain = front.hypervolume - fronts[0].hypervolume
        spread_R = (volume_R - volume_R.mean()) - (drawn[0] - drawn[0].mean())
        low, high = (float(gain + end) for end in np.quantile(spread_R, (0.025, 0.975)))
        if min(front.finished, fronts[0].finished) < FEWEST:
            low = high = math.nan
        spent = sum(r.paid("crop_passes") for r in records if r.rows and not r.source)
        comparisons.append(Comparison(config.name, front, spent, gain, (low, high)))
    return comparisons


def _resampled(front: Front, resamples: int, seed: tuple[int, int]) -> Array:
    """Hypervolumes of the finished trials, each with all its points, resampled with replacement, (R,)."""
    curves: dict[int, list[list[float]]] = {}
    for point in [*front.members, *front.dominated]:
        curves.setdefault(point.number, []).append(point.values(front.objectives))
    if not curves:
        return np.zeros(resamples)
    source, directions = np.random.default_rng(seed), list(front.objectives.values())
    trials = [np.array(values_LK) for values_LK in curves.values()]
    draws = source.integers(len(trials), size=(resamples, len(trials)))
    return np.array(
        [hypervolume(np.vstack([trials[n] for n in set(draw)]), front.reference, directions) for draw in draws]
    )

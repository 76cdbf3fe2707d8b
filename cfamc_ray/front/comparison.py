"""Two studies beside each other: whose front is better, and whether that is significant."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import hypervolume
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.store.records import TrialRecord

Array = npt.NDArray[np.float64]


class Comparison(NamedTuple):
    """A study's front against that of the first one, all with one reference."""

    name: str
    front: Front
    crop_passes: float
    """That its trials took."""
    gain: float
    """Of hypervolume over the first study."""
    interval: tuple[float, float]
    """Of the gain, 95 %, over trials drawn anew with replacement in both studies."""

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


def compare_studies(
    studies: Sequence[tuple[StudyConfig, Sequence[TrialRecord]]], *, resamples: int = 2000, seed: int = 0
) -> list[Comparison]:
    """Hypervolumes with a common reference, and what each study gains over the first.

    The bootstrap draws trials, not seeds: it says how much a front hangs on single trials. A resample leaves out some
    of the front, so its hypervolume is smaller; differences are shifted back by the mean of that loss.

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
    signs_K = np.array([1.0 if direction == "maximize" else -1.0 for direction in objectives.values()])
    references = np.array([find_front(config, records).reference for config, records in studies]) * signs_K
    reference = (references.min(axis=0) * signs_K).tolist()
    fronts = [find_front(config, records, reference=reference) for config, records in studies]
    drawn = [_resampled(front, resamples, (seed, place)) for place, front in enumerate(fronts)]
    found = []
    for (config, records), front, volume_R in zip(studies, fronts, drawn, strict=True):
        gain = front.hypervolume - fronts[0].hypervolume
        spread_R = (volume_R - volume_R.mean()) - (drawn[0] - drawn[0].mean())
        low, high = (float(gain + end) for end in np.quantile(spread_R, (0.025, 0.975)))
        spent = sum(r.value("crop_passes") for r in records if r.rows and not r.source)
        found.append(Comparison(config.name, front, spent, gain, (low, high)))
    return found


def _resampled(front: Front, resamples: int, seed: tuple[int, int]) -> Array:
    """Hypervolumes of the finished trials drawn with replacement, (R,)."""
    trials = [*front.members, *front.dominated]
    directions = list(front.objectives.values())
    values_NK = np.array([trial.values(front.objectives) for trial in trials]).reshape(-1, len(directions))
    if not len(values_NK):
        return np.zeros(resamples)
    source = np.random.default_rng(seed)
    draws = source.integers(len(values_NK), size=(resamples, len(values_NK)))
    return np.array([hypervolume(values_NK[draw], front.reference, directions) for draw in draws])

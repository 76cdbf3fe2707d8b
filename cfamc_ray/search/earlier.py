"""What earlier studies measured at the points of another space."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from cfamc_ray.config.stages import trunk_part
from cfamc_ray.config.study import Point
from cfamc_ray.space.encoding import encode
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import EarlierStudy
from cfamc_ray.store.records import TrialRecord

EPOCHS, IMAGES = "pretraining.epochs", "data.pretrain_images"


Transferred = Sequence[tuple[Point, TrialRecord]]
"""Trials of an earlier study, and their places in another space."""


def transferred(space: SearchSpace, study: EarlierStudy) -> Transferred:
    """Finished trials of an earlier study that have all objectives, and their places in a space.

    A place has the values of the trial, but so many epochs, whole or not, that as many images are seen. It may lie
    outside the ranges and the constraints. Forks, and trials without a value of a searched key, are left out.
    """
    found: list[tuple[Point, TrialRecord]] = []
    for record in study.records:
        values = [each.values(space.config.objectives) for each in record.each_point(space.config.objectives)]
        if record.status != "finished" or trunk_part(record.point) or not np.isfinite(values).all():
            continue
        trial = study.config.trial_at(record.point)
        point = {key: study.config.value_at(record.point, trial, key) for key in space.ranges}
        if EPOCHS in point:
            point[EPOCHS] *= trial.data.pretrain_images / point.get(IMAGES, space.config.trial.data.pretrain_images)
        if _has_place(space, point):
            found.append((point, record))
    return found


def _has_place(space: SearchSpace, point: Point) -> bool:
    try:
        encode(space.ranges, point)
    except (TypeError, ValueError):  # a key that the trial's components do not have, or zero on a logarithmic scale
        return False
    return True


def values_at(record: TrialRecord, objectives: Collection[str], strengths: Sequence[float | None]) -> list[list[float]]:
    """Values of a trial at the operating points whose L2 strengths are nearest to some others, on a logarithmic scale.

    Args:
        record: the trial.
        objectives: names of the metrics.
        strengths: the other strengths; None for the balanced operating point.
    """
    points = record.each_point(objectives)

    def nearest(strength: float | None) -> TrialRecord:
        if strength is None or points[0].l2 is None:
            return record if strength is None else points[0]
        return min(points, key=lambda point: abs(_log(point.l2) - _log(strength)))

    return [nearest(strength).values(objectives) for strength in strengths]


def _log(strength: float | None) -> float:
    return math.log(max(strength or 0.0, 1e-12))

"""What earlier studies measured at the points of another space, and how well that ranks the trials of its study."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau
from threadpoolctl import threadpool_limits

from cfamc_ray.config.stages import trunk_part
from cfamc_ray.config.study import Point
from cfamc_ray.metrics import find_metric
from cfamc_ray.search.gaussian_process import fit_kernel, posterior
from cfamc_ray.space.encoding import encode
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import RANKING, EarlierStudy
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Table

Array = npt.NDArray[np.float64]
EPOCHS = "pretraining.epochs"
ENOUGH = 3
"""Smallest number of trials, of either study, for which a correlation is computed."""


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
            point[EPOCHS] *= trial.data.pretrain_images / space.config.trial.data.pretrain_images
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


def ranking_table(space: SearchSpace, earlier: Sequence[EarlierStudy], records: Sequence[TrialRecord]) -> Table:
    """How well each earlier study alone ranks the finished trials of a study, by each objective that is measured.

    It is Kendall's τ between the values of the trials at their balanced operating points and the predictions of a
    Gaussian process that has seen only the earlier study. Forks are left out.

    Args:
        space: search space of the study.
        earlier: the earlier studies.
        records: records of the study's trials.
    """
    own = [record for record in records if record.status == "finished" and not trunk_part(record.point)]
    rows = [row for study in earlier for row in _rankings(space, study, own)]
    return Table("prior", "How well earlier studies rank the trials", RANKING, rows)


def _rankings(space: SearchSpace, study: EarlierStudy, own: Sequence[TrialRecord]) -> Iterator[dict[str, Any]]:
    known = transferred(space, study)
    for name in space.config.objectives:
        compared = [record for record in own if math.isfinite(record.value(name))]
        if find_metric(name).planned or min(len(known), len(compared)) < ENOUGH:
            continue
        seen_NF = np.array([encode(space.ranges, point) for point, _ in known])
        new_MF = np.array([encode(space.ranges, record.point) for record in compared])
        guessed_M = _predicted(seen_NF, np.array([record.value(name) for _, record in known]), new_MF)
        tau = float(kendalltau(guessed_M, [record.value(name) for record in compared]).statistic)
        yield {
            "study": study.name,
            "trials": len(known),
            "objective": name,
            "compared": len(compared),
            "tau": tau if math.isfinite(tau) else None,
        }


def _predicted(seen_NF: Array, values_N: Array, new_MF: Array) -> Array:
    """Noise-free means at new points, (M,)."""
    mean, deviation = float(values_N.mean()), float(values_N.std()) or 1.0
    observed = (seen_NF, (values_N - mean) / deviation, np.full(len(values_N), 1e-8))
    with threadpool_limits(1):
        return mean + deviation * posterior(fit_kernel(*observed), *observed, new_MF)[0]

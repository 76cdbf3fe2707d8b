"""How well earlier studies rank the trials of a study."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from threadpoolctl import threadpool_limits

from cfamc_ray.config.stages import trunk_part
from cfamc_ray.gaussian_process import predict
from cfamc_ray.metrics import find_metric
from cfamc_ray.search.earlier import transferred
from cfamc_ray.space.encoding import encode
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import RANKING, EarlierStudy
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Table

ENOUGH = 3
"""Smallest number of trials, of either study, for which a correlation is computed."""


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
        with threadpool_limits(1):
            guessed_M = predict(seen_NF, np.array([record.value(name) for _, record in known]), new_MF)
        tau = float(kendalltau(guessed_M, [record.value(name) for record in compared]).statistic)
        yield {
            "study": study.name,
            "trials": len(known),
            "objective": name,
            "compared": len(compared),
            "tau": tau if math.isfinite(tau) else None,
        }

"""What a model expects of the trials of a study: accuracies without the noise of a single training and measurement.

The best of many noisy values is optimistic (winner's curse), and a front of them holds lucky trials. A Gaussian process
fitted to all finished trials expects less of a trial that is better than its neighbours in the space explain.

Shapes: N trials to which the processes are fitted, P trials, L operating points, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.dominance import representative, signs
from cfamc_ray.gaussian_process import MOST, predict_curves
from cfamc_ray.metrics import find_metric
from cfamc_ray.space.encoding import features_of
from cfamc_ray.store.records import TrialRecord

FEWEST = 8
"""Finished trials from which a model is fitted."""


def expected(config: StudyConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records with what a model expects in place of the measured results, at each operating point.

    Costs are known, and stay as they are, as do trials that have not finished or miss an objective.

    Args:
        config: of the study.
        records: of its trials; as they are if fewer than `FEWEST` have finished with the same operating points.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 (a machine that only trains need not have it)

    names = [name for name in config.objectives if find_metric(name).role == "result"]
    finished = {r.number: _values(r, [*config.objectives]) for r in records if r.status == "finished"}
    L = max(map(len, finished.values()), default=0)
    complete = [r for r in records if r.number in finished and _is_whole(finished[r.number], L)]
    if len(complete) < FEWEST or not names:
        return list(records)
    values = [finished[record.number] for record in complete]
    X_PF = np.array([features_of(config, record.point) for record in complete])
    signed = [values_LK * signs(config.objectives.values()) for values_LK in values]
    rows = representative(signed, X_PF.tolist(), MOST)
    model: dict[int, dict[str, npt.NDArray[np.float64]]] = {record.number: {} for record in complete}
    for place, name in enumerate(config.objectives):
        if name in names:
            Y_NL = np.array([values[row][:, place] for row in rows])
            with threadpool_limits(1):  # more threads would wait for each other, and for running trials
                mean_PL = predict_curves(X_PF[rows], Y_NL, X_PF)
            for record, mean_L in zip(complete, mean_PL, strict=True):
                model[record.number][name] = mean_L if find_metric(name).images is None else mean_L.clip(0, 1)
    return [_with(record, model[record.number]) if record.number in model else record for record in records]


def as_measured(records: Sequence[TrialRecord], point: TrialRecord) -> TrialRecord:
    """The same trial at the same operating point, with its measured values."""
    (record,) = [one for one in records if one.number == point.number]
    return replace(record, place=point.place)


def _values(record: TrialRecord, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Measured values at each operating point, (L, K)."""
    return np.array([point.values(names) for point in record.each_point(names)])


def _is_whole(values_LK: npt.NDArray[np.float64], L: int) -> bool:
    return len(values_LK) == L and bool(np.isfinite(values_LK).all())


def _with(record: TrialRecord, expected_L: Mapping[str, npt.NDArray[np.float64]]) -> TrialRecord:
    """The record with other results after its last epoch; those beside its operating points are of the same one."""
    last = record.rows[-1]
    results = [{name: float(mean_L[n]) for name, mean_L in expected_L.items()} for n in range(_points_of(expected_L))]
    if record.each_point(expected_L)[0].place is None:
        return replace(record, rows=[*record.rows[:-1], {**last, **results[0]}])
    points = [{**point, **result} for point, result in zip(record.operating_points, results, strict=True)]
    own = [all(point.get(name) == last.get(name) for name in expected_L) for point in record.operating_points]
    balanced = results[own.index(True) if True in own else 0]
    return replace(record, rows=[*record.rows[:-1], {**last, **balanced, "operating_points": points}])


def _points_of(expected_L: Mapping[str, npt.NDArray[np.float64]]) -> int:
    return len(next(iter(expected_L.values())))

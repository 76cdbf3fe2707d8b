"""What a model expects of the trials of a study: accuracies without the noise of a single training and measurement.

The best of many noisy values is optimistic (winner's curse), and a front of them holds lucky trials. A Gaussian process
fitted to all finished trials expects less of a trial that is better than its neighbours in the space explain.

Shapes: N trials to which the processes are fitted, P trials, L operating points, K
objectives, F features.
"""

from collections.abc import Collection, Mapping, Sequence
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

    results = [place for place, name in enumerate(config.objectives) if find_metric(name).role == "result"]
    measured = {r.number: _values(r, config.objectives) for r in records if r.status == "finished"}
    L = max(map(len, measured.values()), default=0)
    whole = [r for r in records if r.number in measured and _is_whole(measured[r.number], L)]
    if len(whole) < FEWEST or not results:
        return list(records)
    Y_PLK = np.array([measured[record.number] for record in whole])
    X_PF = np.array([features_of(config, record.point) for record in whole])
    rows = representative([*Y_PLK * signs(config.objectives.values())], X_PF.tolist(), MOST)
    with threadpool_limits(1):  # more threads would wait for each other, and for running trials
        for place in results:
            Y_PLK[..., place] = predict_curves(X_PF[rows], Y_PLK[rows, :, place], X_PF)
    names = [*config.objectives]
    found = {
        record.number: _with(record, [{names[k]: _within(names[k], mean_K[k]) for k in results} for mean_K in mean_LK])
        for record, mean_LK in zip(whole, Y_PLK, strict=True)
    }
    return [found.get(record.number, record) for record in records]


def _within(name: str, mean: float) -> float:
    """The mean of a metric; an accuracy lies between 0 and 1."""
    return float(mean if find_metric(name).images is None else np.clip(mean, 0, 1))


def as_measured(records: Sequence[TrialRecord], point: TrialRecord) -> TrialRecord:
    """The same trial at the same operating point, with its measured values."""
    (record,) = [one for one in records if one.number == point.number]
    return replace(record, place=point.place)


def _values(record: TrialRecord, names: Collection[str]) -> npt.NDArray[np.float64]:
    """Measured values at each operating point, (L, K)."""
    return np.array([point.values(names) for point in record.each_point(names)])


def _is_whole(values_LK: npt.NDArray[np.float64], L: int) -> bool:
    return len(values_LK) == L and bool(np.isfinite(values_LK).all())


def _with(record: TrialRecord, expected_L: Sequence[Mapping[str, float]]) -> TrialRecord:
    """The record with other results after its last epoch; those beside its operating points are of the same one."""
    *earlier, last = record.rows
    names = expected_L[0]
    if record.each_point(names)[0].place is None:
        return replace(record, rows=[*earlier, {**last, **expected_L[0]}])
    points = [{**point, **expected} for point, expected in zip(record.operating_points, expected_L, strict=True)]
    own = [all(point.get(name) == last.get(name) for name in names) for point in record.operating_points]
    balanced = expected_L[own.index(True) if True in own else 0]
    return replace(record, rows=[*earlier, {**last, **balanced, "operating_points": points}])

"""The sampler `front`: the point that should add most to the front for its cost, as Gaussian processes expect it.

It differs from a general sampler in what it is told. It sees every learning curve, with the share of the schedule as an
input, so a trial that was stopped early teaches what its early values say and no more. It knows what a point costs
before it runs, and looks for the gain per FLOP. Costs among the objectives are computed, not learnt.

The gain of hypervolume is estimated by random scalarizations (Zhang and Golovin, arXiv 2006.04655): the hypervolume is
the mean over random directions of the best scaled value, whatever the number of objectives.

Shapes: N observations, C candidates, R running trials, P points of the front, K objectives, F features, S samples of
the posterior, W directions.
"""

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from cfamc_ray.config.space import Choice, Constant, FloatRange, IntRange, Range
from cfamc_ray.config.study import PLANNED_COSTS, Point, StudyConfig, draw
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.study.cost_model import FlopsOf
from cfamc_ray.study.front import find_front
from cfamc_ray.study.records import TrialRecord

Array = npt.NDArray[np.float64]

CANDIDATES = 256
ATTEMPTS = 1024
"""Draws for these candidates; some repeat, some do not meet the conditions."""
SAMPLES = 64
DIRECTIONS = 128
COST_POWER = 1.0
"""Of FLOPs, by which a gain is divided: 0 ignores the cost."""
START_COST_POWER = 0.5
LENGTHS = (0.2, 20.0)
NOISE = (1e-2, 1.0)
TREND = True
FLOPS_SCALE = 3.0
MARGIN = 0.05


class FrontModel:
    """What is expected of points that were not tried.

    Args:
        config: of the study.
        records: of the trials so far.
        flops_of: training FLOPs of a trial.
        seed: of everything that is drawn here.
    """

    def __init__(self, config: StudyConfig, records: Sequence[TrialRecord], flops_of: FlopsOf, *, seed: int) -> None:
        self.config, self.flops_of, self.seed = config, flops_of, seed
        self.records = [record for record in records if record.status != "infeasible"]
        self.signs_K = np.array([1.0 if direction == "maximize" else -1.0 for direction in config.objectives.values()])
        self._trials = {record.number: config.trial_at(record.point) for record in self.records}

    def proposals(self) -> Iterator[Point]:
        """Untried points that meet the conditions, the most promising first."""
        points = self._candidates()
        if not points:
            return
        trials = [self.config.trial_at(point) for point in points]
        known = sum(record.status == "finished" for record in self.records)
        score_C = (
            self._gain(points, trials) if known >= self.config.search.startup_trials else self._news(points, trials)
        )
        yield from (points[place] for place in np.argsort(-score_C, kind="stable"))

    def _candidates(self) -> list[Point]:
        """Random points, and points of the front with one key drawn anew."""
        source = random.Random(self.seed)  # noqa: S311 (no secret)
        space = self.config.space
        front = [record.point for record in find_front(self.config, self.records).members]
        seen = [dict(record.point) for record in self.records]
        found: list[Point] = []
        for attempt in range(ATTEMPTS):
            if front and attempt % 2:
                key = source.choice(list(space))
                point = {**source.choice(front), key: draw(space[key], source)}
            else:
                point = {key: draw(written, source) for key, written in space.items()}
            if point not in seen and self.config.admits(point):
                found.append(point)
                seen.append(dict(point))
            if len(found) == CANDIDATES:
                break
        return found

    def _news(self, points: Sequence[Point], trials: Sequence[TrialConfig]) -> Array:
        """Of the first points: how far they are from all others, for their cost."""
        flops_C = np.array([self.flops_of(trial) for trial in trials], dtype=float)
        here = np.array([encode(self.config.space, point) for point in points])
        tried = np.array([encode(self.config.space, record.point) for record in self.records]).reshape(
            -1, here.shape[1]
        )
        if not len(tried):
            return np.arange(len(points), 0, -1.0)
        gap_C: Array = np.linalg.norm(here[:, None] - tried[None], axis=-1).min(axis=1)
        return gap_C / flops_C**START_COST_POWER

    def _gain(self, points: Sequence[Point], trials: Sequence[TrialConfig]) -> Array:
        """Expected gain of hypervolume per FLOP, (C,), over known and running trials, all drawn together."""
        seen, Y_NK, noise_NK = self._observations()
        running = [record for record in self.records if not record.ended]
        places = [self._features(record.point, self._trials[record.number]) for record in (*seen, *running)]
        X = np.array([*places, *(self._features(point, trial) for point, trial in zip(points, trials, strict=True))])
        every = [*(self._trials[record.number] for record in (*seen, *running)), *trials]
        source = np.random.default_rng(self.seed)
        drawn_SMK = np.empty((SAMPLES, len(X), len(self.signs_K)))
        for k, name in enumerate(self.config.objectives):
            if name in PLANNED_COSTS:
                drawn_SMK[:, :, k] = [self.signs_K[k] * self._planned(name, trial) for trial in every]
            else:
                drawn_SMK[:, :, k] = _draw(X, Y_NK[:, k], noise_NK[:, k], source)
        finished = np.array([record.status == "finished" for record in seen] + [True] * len(running), dtype=bool)
        known_SPK, new_SCK = drawn_SMK[:, : len(places)][:, finished], drawn_SMK[:, len(places) :]
        flops_C = np.array([self.flops_of(trial) for trial in trials], dtype=float)
        gain_C: Array = self._hypervolume_gain(new_SCK, known_SPK) / flops_C**COST_POWER
        return gain_C

    def _hypervolume_gain(self, new_SCK: Array, known_SPK: Array) -> Array:
        """Mean gain of each candidate over samples and directions, (C,)."""
        K = len(self.signs_K)
        expected_PK = known_SPK.mean(axis=0)
        low_K, span_K = expected_PK.min(axis=0), np.ptp(expected_PK, axis=0)
        span_K = np.where(span_K > 0, span_K, 1.0)
        low_K = low_K - MARGIN * span_K
        direction_WK = np.abs(np.random.default_rng(self.seed).normal(size=(DIRECTIONS, K)))
        direction_WK /= np.linalg.norm(direction_WK, axis=1, keepdims=True)

        def scaled(values: Array) -> Array:  # (..., K) to (..., W)
            heights: Array = ((values - low_K) / span_K)[..., None, :] / direction_WK
            volumes: Array = np.maximum(heights, 0.0).min(axis=-1) ** K
            return volumes

        gain_SC = [
            np.maximum(scaled(new_CK) - scaled(known_PK).max(axis=0), 0.0).mean(axis=-1)
            for new_CK, known_PK in zip(new_SCK, known_SPK, strict=True)
        ]
        return np.asarray(np.mean(gain_SC, axis=0))

    def _observations(self) -> tuple[list[TrialRecord], Array, Array]:
        """Trials with their final values, signed so that more is better, and the variance beside their noise.

        A stopped trial counts with its last values and what the finished ones gained from there on, whose variance is
        added.
        """
        ends = [r for r in self.records if r.status == "finished" and np.isfinite(self._signed(r)).all()]
        seen, Y, noise = list(ends), [self._signed(r) for r in ends], [np.zeros(len(self.signs_K))] * len(ends)
        for record in self.records:
            if record.status != "stopped" or not record.rows:
                continue
            share = len(record.rows) / self._trials[record.number].pretraining.epochs
            gains_NK = np.array([self._signed(r) - self._signed(self._at(r, share)) for r in ends])
            gains_NK = gains_NK[np.isfinite(gains_NK).all(axis=1)] if len(gains_NK) else gains_NK
            if len(gains_NK) >= 3 and np.isfinite(self._signed(record)).all():
                seen.append(record)
                Y.append(self._signed(record) + gains_NK.mean(axis=0))
                noise.append(gains_NK.var(axis=0, ddof=1))
        return seen, np.array(Y), np.array(noise)

    def _at(self, record: TrialRecord, share: float) -> TrialRecord:
        epochs = max(round(share * len(record.rows)), 1)
        return TrialRecord(record.number, record.point, record.rows[:epochs])

    def _signed(self, record: TrialRecord) -> Array:
        signed_K: Array = np.array(record.values(self.config.objectives)) * self.signs_K
        return signed_K

    def _features(self, point: Point, trial: TrialConfig) -> list[float]:
        return [*encode(self.config.space, point), math.log(self.flops_of(trial)) / FLOPS_SCALE]

    def _planned(self, name: str, trial: TrialConfig) -> float:
        return float(trial.crop_passes if name == "crop_passes" else self.flops_of(trial))


def encode(space: Mapping[str, Range], point: Mapping[str, Any]) -> list[float]:
    """A point as numbers from 0 to 1: on the range's scale, and one for each value of a choice that has no order."""
    found: list[float] = []
    for key, written in space.items():
        match written:
            case Constant():
                pass
            case IntRange(bounds=(low, high), log=log) | FloatRange(bounds=(low, high), log=log):
                found.append(_place(point[key], low, high, log=log))
            case Choice(values=values) if len(values) > 1 and all(type(value) in (int, float) for value in values):
                numbers = [float(value) for value in values]  # type: ignore[arg-type]
                found.append(_place(point[key], min(numbers), max(numbers), log=min(numbers) > 0))
            case Choice(values=values):
                found += [float(point[key] == value) for value in values]
    return found


def _place(value: float, low: float, high: float, *, log: bool) -> float:
    scale = math.log if log else float
    return (scale(value) - scale(low)) / (scale(high) - scale(low))


def _draw(X_MF: Array, y_N: Array, noise_N: Array, source: np.random.Generator) -> Array:
    """Joint draws of what noise hides at M places, of which the first N were observed, (S, M)."""
    mean, deviation = float(y_N.mean()), float(y_N.std()) or 1.0
    F = X_MF.shape[1]
    kernel = (
        ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.ones(F), LENGTHS, nu=2.5)
        + ConstantKernel(1.0, (1e-3, 10.0)) * DotProduct(1.0, "fixed")
        + WhiteKernel(0.1, NOISE)
    )
    if not TREND:
        kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.ones(F), LENGTHS, nu=2.5) + WhiteKernel(0.1, NOISE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an input that does not matter
        regressor = GaussianProcessRegressor(kernel, alpha=noise_N / deviation**2 + 1e-8)
        regressor.fit(X_MF[: len(y_N)], (y_N - mean) / deviation)
    mean_M, cov_MM = regressor.predict(X_MF, return_cov=True)
    hidden_MM = cov_MM - regressor.kernel_.k2.noise_level * np.eye(len(X_MF))
    value, vector = np.linalg.eigh(hidden_MM)
    root_MM = vector * np.sqrt(np.maximum(value, 0.0))
    drawn: Array = mean_M + source.standard_normal((SAMPLES, len(X_MF))) @ root_MM.T
    return drawn * deviation + mean

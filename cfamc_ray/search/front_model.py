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
from scipy.stats import norm, qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

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
CURVE_SHARES = (0.25, 0.5, 0.75)
"""Of a schedule, where a learning curve is read, besides its end."""
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
        known = sum(bool(record.rows) for record in self.records)
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
        """Expected gain of hypervolume per FLOP, (C,); running trials count with what is expected of them."""
        X_NF, Y_NK = self._observations()
        candidates_CF = np.array(
            [self._features(point, trial, 1.0) for point, trial in zip(points, trials, strict=True)]
        )
        running = [record for record in self.records if not record.ended]
        running_RF = np.array([self._features(r.point, self._trials[r.number], 1.0) for r in running])
        running_RF = running_RF.reshape(-1, candidates_CF.shape[1])
        normal_SK = norm.ppf(
            qmc.Sobol(len(self.signs_K), rng=np.random.default_rng(self.seed)).random(SAMPLES) * 0.999 + 5e-4
        )
        sampled_SCK = np.empty((SAMPLES, len(points), len(self.signs_K)))
        expected_RK = np.empty((len(running), len(self.signs_K)))
        for k, name in enumerate(self.config.objectives):
            if name in PLANNED_COSTS:
                sampled_SCK[:, :, k] = [self.signs_K[k] * self._planned(name, trial) for trial in trials]
                expected_RK[:, k] = [self.signs_K[k] * self._planned(name, self._trials[r.number]) for r in running]
                continue
            process = _fit(X_NF, Y_NK[:, k])
            mean_C, deviation_C = process.latent(candidates_CF)
            sampled_SCK[:, :, k] = mean_C + deviation_C * normal_SK[:, k : k + 1]
            expected_RK[:, k] = process.latent(running_RF)[0] if running else 0.0
        front = find_front(self.config, self.records).members
        front_PK = np.array([r.values(self.config.objectives) for r in front]).reshape(-1, len(self.signs_K))
        flops_C = np.array([self.flops_of(trial) for trial in trials], dtype=float)
        gain_C = self._hypervolume_gain(sampled_SCK, np.concatenate([front_PK * self.signs_K, expected_RK]), Y_NK)
        return gain_C / flops_C**COST_POWER

    def _hypervolume_gain(self, sampled_SCK: Array, front_PK: Array, seen_NK: Array) -> Array:
        """Mean gain of each candidate over samples and directions, (C,)."""
        K = len(self.signs_K)
        low_K, high_K = seen_NK.min(axis=0), np.maximum(seen_NK.max(axis=0), front_PK.max(axis=0, initial=-np.inf))
        span_K = np.where(high_K > low_K, high_K - low_K, 1.0)
        low_K = low_K - MARGIN * span_K
        direction_WK = np.abs(np.random.default_rng(self.seed).normal(size=(DIRECTIONS, K)))
        direction_WK /= np.linalg.norm(direction_WK, axis=1, keepdims=True)

        def scaled(values: Array) -> Array:  # (..., K) to (..., W)
            heights: Array = ((values - low_K) / span_K)[..., None, :] / direction_WK
            volumes: Array = np.maximum(heights, 0.0).min(axis=-1) ** K
            return volumes

        best_W = scaled(front_PK).max(axis=0, initial=0.0)
        gain_SC = [np.maximum(scaled(sample_CK) - best_W, 0.0).mean(axis=-1) for sample_CK in sampled_SCK]
        return np.asarray(np.mean(gain_SC, axis=0))

    def _observations(self) -> tuple[Array, Array]:
        """Features and values, signed so that more is better, along all learning curves."""
        X, Y = [], []
        for record in self.records:
            trial = self._trials[record.number]
            epochs = trial.pretraining.epochs
            read = {math.ceil(share * epochs) for share in CURVE_SHARES} | {len(record.rows)}
            for epoch in sorted(epoch for epoch in read if 0 < epoch <= len(record.rows)):
                then = TrialRecord(record.number, record.point, record.rows[:epoch])
                values_K = np.array(then.values(self.config.objectives))
                if np.isfinite(values_K).all():
                    X.append(self._features(record.point, trial, epoch / epochs))
                    Y.append(values_K * self.signs_K)
        return np.array(X), np.array(Y)

    def _features(self, point: Point, trial: TrialConfig, share: float) -> list[float]:
        return [*encode(self.config.space, point), math.log(self.flops_of(trial)) / FLOPS_SCALE, share]

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


class _Process:
    """A Gaussian process of one objective, with noise that is fitted."""

    def __init__(self, regressor: GaussianProcessRegressor, mean: float, deviation: float) -> None:
        self.regressor, self.mean, self.deviation = regressor, mean, deviation

    def latent(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of what noise hides."""
        mean, deviation = self.regressor.predict(features, return_std=True)
        hidden = np.maximum(deviation**2 - self.regressor.kernel_.k2.noise_level, 1e-8)
        return mean * self.deviation + self.mean, np.sqrt(hidden) * self.deviation


def _fit(X_NF: Array, y_N: Array) -> _Process:
    lengths = np.ones(X_NF.shape[1])
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(lengths, (0.1, 20.0), nu=2.5) + WhiteKernel(0.05, (1e-3, 1.0))
    mean, deviation = float(y_N.mean()), float(y_N.std()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an input that does not matter
        regressor = GaussianProcessRegressor(kernel).fit(X_NF, (y_N - mean) / deviation)
    return _Process(regressor, mean, deviation)

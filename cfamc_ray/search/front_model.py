"""The sampler `front`: the point with the largest expected hypervolume gain under Gaussian processes.

The gain is computed on noise-free values: known points are sampled together with the candidates (as in Daulton et al.,
arXiv 2105.08195), so a lucky value does not hide better points. It is estimated by random scalarizations (Zhang and
Golovin, arXiv 2006.04655): the hypervolume is the mean over random directions of the best scaled value, for any number
of objectives. Unlike in a general sampler, costs among the objectives are computed, not learnt, and a trial that was
stopped early is extrapolated by the later gains of other trials.

The time of a proposal is bounded: the processes are fitted to at most `MOST` trials, of which half may be of other
studies.

Trials of earlier studies are observations, too. A feature for each of these studies lets the processes learn by how
much, and in which keys, it differs from this one.

A trial has several operating points (L2 strengths of the probe), which cost nothing: all of them are observed at once,
and the gain of a candidate is that of its whole curve.

Shapes: N observations, P trials of this study, C candidates, M points, L operating points, K objectives, F features, S
samples, W directions, E epochs.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from threadpoolctl import threadpool_limits

from cfamc_ray.config.stages import trunk_epochs
from cfamc_ray.config.study import Point
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import FlopsOf
from cfamc_ray.front.dominance import representative, signs
from cfamc_ray.gaussian_process import LENGTHS, MOST, SAMPLES, draw_curves
from cfamc_ray.metrics import find_metric
from cfamc_ray.search.candidates import forks_to_try, own_passes, points_to_try, random_points
from cfamc_ray.search.earlier import Transferred, values_at
from cfamc_ray.space.encoding import features_of
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialRecord

Array = npt.NDArray[np.float64]

DIRECTIONS = 128
HOPELESS = 0.25
"""Probability of success below which a point is not worth trying."""
ALIKE = 1e-2
"""Squared distance in a key below which first points count as alike in it, as whole numbers and choices often are."""
MARGIN = 0.05
"""Distance of the hypervolume's reference beyond the worst value, as a fraction of the range."""


class Observation(NamedTuple):
    """Values of an ended trial."""

    features: list[float]
    signed_LK: Array
    """Final values, signed so that more is better."""
    noise_LK: Array
    """Known variances of the values, beside that of the seeds."""
    on_front: bool
    """Whether it may be on the front: not a stopped trial, nor one of another study."""


class FrontModel:
    """Predicts how much untried points would add to the front.

    Args:
        space: search space of the study.
        records: records of the trials so far.
        flops_of: function that gives the training FLOPs of a trial.
        seed: seed of all random numbers.
        earlier: trials of earlier studies from which it learns, study by study.
    """

    def __init__(
        self,
        space: SearchSpace,
        records: Sequence[TrialRecord],
        flops_of: FlopsOf,
        *,
        seed: int,
        earlier: Sequence[Transferred] = (),
    ) -> None:
        self.space, self.config, self.flops_of, self.seed = space, space.config, flops_of, seed
        self._others = earlier
        self._values: dict[tuple[int, int], Array] = {}
        by_number = sorted(records, key=lambda record: record.number)
        self.records = [record for record in by_number if record.status != "infeasible"]
        self.signs_K = signs(self.config.objectives.values())
        ended = [record for record in self.records if record.status == "finished"]
        known = [record for record in ended if np.isfinite(self._signed(record)).all()]
        L = max((len(self._signed(record)) for record in known), default=1)
        self._finished = [record for record in known if len(self._signed(record)) == L]

    def proposals(self) -> Iterator[Point]:
        """Untried points that meet the constraints, the most promising first."""
        known = len(self._finished) + sum(map(len, self._others))
        if spread_out := known < self.config.search.startup_trials:
            points = random_points(self.space, self.records, seed=self.seed)
        else:
            points = points_to_try(self.space, self.records, seed=self.seed)
            points += forks_to_try(self.space, self.records, seed=self.seed)
        if points:
            score_C = self._distance(points) if spread_out else self._per_pass(points, self._gain(points))
            yield from (points[place] for place in np.argsort(-score_C, kind="stable"))

    def _per_pass(self, points: Sequence[Point], gain_C: Array) -> Array:
        """The gains; of a fork for as many crop passes as the best trial without a trunk takes, (C,)."""
        fork_C = np.array([trunk_epochs(point) > 0 for point in points])
        if fork_C.all() or not fork_C.any():
            return gain_C
        passes_C = np.array([own_passes(self.config, point) for point in points])
        return np.where(fork_C, gain_C * passes_C[np.where(fork_C, -np.inf, gain_C).argmax()] / passes_C, gain_C)

    def _distance(self, points: Sequence[Point]) -> Array:
        """How far points lie from all trials in each key, the score of the first points, (C,).

        The criterion of MaxPro designs (Joseph, Gul and Ba 2015): points are spread along every key and every group of
        keys, whereas the points that are farthest apart lie in the corners of the space.
        """
        if not self.records:
            return np.zeros(len(points))
        here_CF, tried_PF = (self._encoded(group) for group in (points, [record.point for record in self.records]))
        closeness_CP = -np.log((here_CF[:, None] - tried_PF) ** 2 + ALIKE).sum(axis=-1)
        score_C: Array = -logsumexp(closeness_CP, axis=1)
        return score_C

    def _gain(self, points: Sequence[Point]) -> Array:
        """Expected hypervolume gain over known and running trials, (C,)."""
        observed = self._observations()
        running = [record for record in self.records if not record.ended]
        new = [*(record.point for record in running), *points]
        X_MF = np.array([*(each.features for each in observed), *map(self._features, new)])
        Y_NLK, noise_NLK = (np.array([each[place] for each in observed]) for place in (1, 2))
        planned = any(find_metric(name).planned for name in self.config.objectives)
        trials = [self.config.trial_at(point) for point in new] if planned else []
        source = np.random.default_rng(self.seed)
        drawn_SMLK = np.empty((SAMPLES, len(X_MF), *Y_NLK.shape[1:]))
        with threadpool_limits(1):  # more threads would compete with the trials
            for k, name in enumerate(self.config.objectives):
                if find_metric(name).planned:
                    planned_C = np.array([self.signs_K[k] * self._planned(name, trial) for trial in trials])
                    drawn_SMLK[:, : len(Y_NLK), :, k] = Y_NLK[..., k]
                    drawn_SMLK[:, len(Y_NLK) :, :, k] = planned_C[:, None]
                else:
                    drawn_SMLK[..., k] = draw_curves(X_MF, Y_NLK[..., k], noise_NLK[..., k], source)
        on_front_M = np.array([*(each.on_front for each in observed), *[True] * len(running), *[False] * len(points)])
        gain_C = self._hypervolume_gain(drawn_SMLK[:, len(X_MF) - len(points) :], drawn_SMLK[:, on_front_M])
        chance_C = self._chance(points)
        return np.where(chance_C < HOPELESS, 0.0, gain_C * chance_C)

    def _chance(self, points: Sequence[Point]) -> Array:
        """Probability that a trial does not fail (as in Gelbart et al., arXiv 1403.5607), (C,)."""
        failed_N = [record.status == "failed" for record in self._seen]
        if len(set(failed_N)) < 2:  # nothing to tell apart
            return np.ones(len(points))
        known_NF, new_CF = (self._encoded(group) for group in ([record.point for record in self._seen], points))
        kernel = ConstantKernel(4.0, (1.0, 100.0)) * Matern(np.ones(known_NF.shape[1]), LENGTHS, nu=2.5)
        classifier = GaussianProcessClassifier(kernel)
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            chance_C: Array = 1.0 - classifier.fit(known_NF, failed_N).predict_proba(new_CF)[:, 1]
        return chance_C

    def _hypervolume_gain(self, new_SCLK: Array, known_SPLK: Array) -> Array:
        """Mean gain of each candidate, with all its operating points, over samples and directions, (C,)."""
        K = len(self.signs_K)
        expected_PLK = (known_SPLK if known_SPLK.shape[1] else new_SCLK).mean(axis=0)
        low_K, span_K = expected_PLK.min(axis=(0, 1)), np.ptp(expected_PLK, axis=(0, 1))
        span_K = np.where(span_K > 0, span_K, 1.0)
        low_K = low_K - MARGIN * span_K
        direction_WK = np.abs(np.random.default_rng(self.seed).normal(size=(DIRECTIONS, K)))
        direction_WK /= np.linalg.norm(direction_WK, axis=1, keepdims=True)

        def scaled(values: Array) -> Array:  # (..., K) to (..., W)
            shares = (values - low_K) / span_K
            heights: Array = reduce(np.minimum, (shares[..., k, None] / direction_WK[:, k] for k in range(K)))
            return np.maximum(heights, 0.0)

        gain_SC = [
            np.maximum(
                scaled(new_CLK).max(axis=1) ** K - scaled(known_PLK).max(axis=(0, 1), initial=0.0) ** K, 0.0
            ).mean(axis=-1)
            for new_CLK, known_PLK in zip(new_SCLK, known_SPLK, strict=True)
        ]
        return np.asarray(np.mean(gain_SC, axis=0))

    def _observations(self) -> list[Observation]:
        """Ended trials with their final values, then those of earlier studies.

        A stopped trial counts with its last values plus the mean later gain of the finished trials, whose variance is
        added.
        """
        complete = {record.number for record in self._finished}
        found = [self._observed(record, 0.0) for record in self._seen if record.number in complete]
        for record in self._seen if self._finished else ():
            if record.status == "stopped" and record.rows and self._is_complete(self._signed(record)):
                gain_NLK = self._later_gains(len(record.rows) / self.config.trial_at(record.point).pretraining.epochs)
                if len(gain_NLK) > 1:
                    found.append(self._observed(record, gain_NLK.mean(axis=0), gain_NLK.var(axis=0, ddof=1)))
        return [*found, *self._earlier]

    def _observed(self, record: TrialRecord, gain_LK: Array | float, noise_LK: Array | float = 0.0) -> Observation:
        signed_LK = self._signed(record)
        noise_LK = np.zeros_like(signed_LK) + noise_LK
        return Observation(self._features(record.point), signed_LK + gain_LK, noise_LK, record.status != "stopped")

    @cached_property
    def _strengths(self) -> list[float | None]:
        """L2 strengths of the operating points that the processes describe."""
        known = self._finished or [record for study in self._others for _, record in study]
        return [point.l2 for point in known[0].each_point(self.config.objectives)]

    @cached_property
    def _earlier(self) -> list[Observation]:
        """Trials of earlier studies, at most half of `MOST`."""
        found = []
        for number, study in enumerate(self._others):
            for point, record in study:
                signed_LK = np.array(values_at(record, self.config.objectives, self._strengths)) * self.signs_K
                features = self._features(point, study=number)
                found.append(Observation(features, signed_LK, np.zeros_like(signed_LK), on_front=False))
        rows = representative([each.signed_LK for each in found], [each.features for each in found], MOST // 2)
        return [found[row] for row in rows]

    @cached_property
    def _seen(self) -> list[TrialRecord]:
        """Ended trials to which the processes are fitted; with those of earlier studies at most `MOST`."""
        ended = [record for record in self.records if record.ended]
        unknown_1K = np.full((1, len(self.signs_K)), np.nan)
        values = [self._signed(record) if record.status == "finished" else unknown_1K for record in ended]
        most = MOST - len(self._earlier)
        places = [self._features(record.point) for record in ended]
        return [ended[row] for row in representative(values, places, most, latest=most // 4)]

    @cached_property
    def _curves(self) -> tuple[Array, npt.NDArray[np.int_]]:
        """Signed values of the finished trials after each epoch, (N, E, L, K), and their numbers of epochs, (N,)."""
        epochs_N = np.array([len(record.rows) for record in self._finished])
        curves_NELK = np.full((len(epochs_N), max(epochs_N), *self._signed(self._finished[0]).shape), np.nan)
        for curve_ELK, record in zip(curves_NELK, self._finished, strict=True):
            for epoch in range(len(record.rows)):
                signed = self._signed(replace(record, rows=record.rows[: epoch + 1]))
                curve_ELK[epoch] = signed if self._is_complete(signed) else np.nan
        return curves_NELK, epochs_N

    def _later_gains(self, share: float) -> Array:
        """Gains of the finished trials after a fraction of their epochs, (N, L, K), without incomplete ones."""
        curves_NELK, epochs_N = self._curves
        then_N = np.maximum(np.rint(share * epochs_N).astype(int), 1)
        trials_N = np.arange(len(epochs_N))
        gain_NLK: Array = curves_NELK[trials_N, epochs_N - 1] - curves_NELK[trials_N, then_N - 1]
        return gain_NLK[np.isfinite(gain_NLK).all(axis=(1, 2))]

    def _encoded(self, points: Sequence[Point]) -> Array:
        return np.array([self._features(point) for point in points])

    def _features(self, point: Point, *, study: int | None = None) -> list[float]:
        """Those of `features_of`, and whether the point is one of each earlier study."""
        return [*features_of(self.config, point), *(float(number == study) for number in range(len(self._others)))]

    def _signed(self, record: TrialRecord) -> Array:
        """Values at each operating point after the last epoch, (L, K)."""
        key = record.number, len(record.rows)
        if key not in self._values:
            points = record.each_point(self.config.objectives)
            self._values[key] = np.array([point.values(self.config.objectives) for point in points]) * self.signs_K
        return self._values[key]

    def _is_complete(self, signed_LK: Array) -> bool:
        """Whether all values are known, of as many operating points as the finished trials have."""
        return bool(np.isfinite(signed_LK).all()) and len(signed_LK) == len(self._strengths)

    def _planned(self, name: str, trial: TrialConfig) -> float:
        return float(trial.crop_passes if name == "crop_passes" else self.flops_of(trial))

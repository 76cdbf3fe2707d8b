"""Points of a search space: Optuna's samplers, held to the constraints and to what has not been tried yet."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from cfamc_ray.config.ranges import Range
from cfamc_ray.config.study import Point, SearchConfig, StudyConfig
from cfamc_ray.cost.model import FlopsOf
from cfamc_ray.search.front_model import FrontModel
from cfamc_ray.space.encoding import constants, distributions
from cfamc_ray.store.records import TrialRecord

ATTEMPTS = {"tpe": 64, "nsga2": 64, "nsga3": 64, "gp": 4, "random": 64}
"""Proposals of a sampler that may be refused before random ones are tried; a Gaussian process takes long for each."""
RANDOM_ATTEMPTS = 4096


def suggest_point(trial: optuna.Trial, space: Mapping[str, Range]) -> dict[str, Any]:
    """The value of every key of the space; values that the trial has already are kept."""
    suggested = {key: trial._suggest(key, distribution) for key, distribution in distributions(space).items()}
    point = constants(space) | suggested
    return {key: point[key] for key in space}


class FeasibleSampler(BaseSampler):
    """Asks a sampler of Optuna again until a point meets the constraints and has not been tried.

    Of a grid the n-th trial has the n-th point.

    Every trial has a sampler of its own, seeded by the study's seed and the trial's number: what the samplers know is
    in the storage, so a resumed study goes on as if it had not been interrupted.

    Args:
        config: of the study.
        records: the trials so far, which the sampler `front` reads.
        flops_of: training FLOPs of a trial, which it divides by.
    """

    def __init__(
        self,
        config: StudyConfig,
        records: Callable[[], Sequence[TrialRecord]] = lambda: (),
        flops_of: FlopsOf = lambda trial: trial.crop_passes,
    ) -> None:
        self.config, self.records, self.flops_of = config, records, flops_of
        self.fits: Callable[[Point], bool] = lambda point: True
        """Whether a point may be proposed: set by a search whose budget runs out."""
        self.distributions = distributions(config.space)
        self.constants = constants(config.space)
        self._points, self._grid = (
            config.points(),
            list[Point](),
        )  # points of a grid, and the first ones that were needed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All keys together, for a constraint binds several."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A new point that meets the constraints; after many attempts, one that was tried before."""
        if not search_space:
            return {}
        if set(search_space) <= set(trial.params) and self.config.admits(self.constants | trial.params):
            return trial.params  # a trial that goes on
        others = (known for known in study.get_trials(deepcopy=False) if known.number != trial.number)
        tried = {frozenset(known.params.items()) for known in others}
        first = map(self._searched, self.config.first_points)
        if (point := next((point for point in first if frozenset(point.items()) not in tried), None)) is not None:
            return point
        repeated = None
        for point in self._proposals(study, trial):
            whole = self.constants | point
            if self.config.admits(whole) and self.fits(whole):
                if frozenset(point.items()) not in tried:
                    return point
                repeated = repeated or point
        if repeated is None:
            raise RuntimeError(f"no point is left, or none met the constraints in {RANDOM_ATTEMPTS} attempts")
        return repeated

    def _searched(self, point: Point) -> dict[str, Any]:
        return {key: point[key] for key in self.distributions}

    def _proposals(self, study: optuna.Study, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        search = self.config.search
        if search.sampler == "grid":
            self._grid += islice(self._points, max(trial.number + 1 - len(self._grid), 0))
            yield from map(self._searched, self._grid[trial.number : trial.number + 1])
            return
        seed = (search.seed, trial.number)
        if search.sampler == "front":
            others = [record for record in self.records() if record.number != trial.number]
            yield from map(self._searched, FrontModel(self.config, others, self.flops_of, seed=_word(seed)).proposals())
        known = [(search.sampler, ATTEMPTS[search.sampler])] if search.sampler in ATTEMPTS else []
        for name, attempts in (*known, ("random", RANDOM_ATTEMPTS)):
            sampler = make_sampler(search, name, seed)
            sampler.before_trial(study, trial)
            space = sampler.infer_relative_search_space(study, trial)
            for _ in range(attempts):
                point = sampler.sample_relative(study, trial, space)
                for key, distribution in self.distributions.items():
                    if key not in point:
                        point[key] = sampler.sample_independent(study, trial, key, distribution)
                yield point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed: all keys are sampled together."""
        raise AssertionError(f"{param_name} is not a key of the space")

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the sampler keep its books."""
        search = self.config.search
        if search.sampler not in ("grid", "front"):
            make_sampler(search, search.sampler, (search.seed, trial.number)).after_trial(study, trial, state, values)


def make_sampler(config: SearchConfig, name: str, seed: Sequence[int]) -> BaseSampler:
    """One of Optuna's samplers by the name that a space file uses."""
    word = _word(seed)
    startup = config.startup_trials
    match name:
        case "tpe":
            return TPESampler(seed=word, n_startup_trials=startup, multivariate=True)
        case "nsga2":
            return NSGAIISampler(seed=word, population_size=max(startup, 2))
        case "nsga3":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return NSGAIIISampler(seed=word, population_size=max(startup, 2))
        case "gp":
            return GPSampler(seed=word, n_startup_trials=startup, warn_independent_sampling=False)
        case "random":
            return RandomSampler(seed=word)
    raise ValueError(f"search.sampler: there is no sampler {name!r}")


def _word(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1)[0])

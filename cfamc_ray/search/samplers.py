"""The samplers that configs build: Optuna's samplers, `front`, and a grid.

Each takes the keywords of `cfamc_ray.config.search.SamplerConfig.build`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from cfamc_ray.config.search import SamplerConfig
from cfamc_ray.config.study import Point
from cfamc_ray.cost.model import FlopsOf
from cfamc_ray.search.earlier import Transferred
from cfamc_ray.search.feasible_sampler import NoPointLeftError
from cfamc_ray.search.front_model import FrontModel
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialRecord


def tpe(_: SamplerConfig, *, seed: int, startup_trials: int, **__: Any) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator over all keys together."""
    return TPESampler(seed=seed, n_startup_trials=startup_trials, multivariate=True)


def nsga2(_: SamplerConfig, *, seed: int, startup_trials: int, **__: Any) -> BaseSampler:
    """Optuna's NSGA-II."""
    return NSGAIISampler(seed=seed, population_size=max(startup_trials, 2))


def nsga3(_: SamplerConfig, *, seed: int, startup_trials: int, **__: Any) -> BaseSampler:
    """Optuna's NSGA-III, without its experimental warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return NSGAIIISampler(seed=seed, population_size=max(startup_trials, 2))


def gaussian_process(_: SamplerConfig, *, seed: int, startup_trials: int, **__: Any) -> BaseSampler:
    """Optuna's Gaussian process."""
    return GPSampler(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)


def uniform(_: SamplerConfig, *, seed: int, **__: Any) -> BaseSampler:
    """Optuna's random sampler."""
    return RandomSampler(seed=seed)


class FrontSampler(BaseSampler):
    """Proposes the points of a `FrontModel`, the most promising first, and then random points.

    Args:
        seed: seed of this trial's sampler.
        space: search space of the study.
        records: function that gives the records of the trials so far.
        flops_of: function that gives the training FLOPs of a trial.
        earlier: trials of earlier studies from which it learns, study by study.
    """

    def __init__(
        self,
        _: SamplerConfig,
        *,
        seed: int,
        space: SearchSpace,
        records: Callable[[], Sequence[TrialRecord]],
        flops_of: FlopsOf,
        earlier: Sequence[Transferred] = (),
        **__: Any,
    ) -> None:
        self.seed, self.space, self.records, self.flops_of = seed, space, records, flops_of
        self.earlier = earlier
        self._random = RandomSampler(seed=seed)
        self._proposals: Iterator[Point] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Empty, because the model knows the space."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The model's next proposal; empty after the last one."""
        if self._proposals is None:
            others = [record for record in self.records() if record.number != trial.number]
            model = FrontModel(self.space, others, self.flops_of, seed=self.seed, earlier=self.earlier)
            self._proposals = model.proposals()
        return dict(next(self._proposals, {}))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a random value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


class GridSampler(BaseSampler):
    """Proposes the points of a grid in order, for the n-th trial from the n-th point on, and then those before it.

    Args:
        space: space whose points are the grid.
    """

    def __init__(self, _: SamplerConfig, *, space: SearchSpace, **__: Any) -> None:
        self.space = space
        self._proposals: Iterator[Point] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Empty, because the grid knows the space."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point.

        Raises:
            NoPointLeftError: after the last one.
        """
        if self._proposals is None:
            self._proposals = self.space.grid_from(trial.number)
        if (point := next(self._proposals, None)) is None:
            raise NoPointLeftError
        return dict(point)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never called, because a point has all keys."""
        raise AssertionError(f"{param_name} is not a key of the space")

"""The sampler of a study, restricted to points that meet the constraints and have not been tried."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from cfamc_ray.config.ranges import Range
from cfamc_ray.config.search import RandomConfig, SamplerConfig
from cfamc_ray.config.stages import trunk_part, without_trunk
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.cost.model import FlopsOf
from cfamc_ray.search.candidates import near
from cfamc_ray.search.earlier import transferred
from cfamc_ray.space.encoding import constants, distributions, encode
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import EarlierStudy
from cfamc_ray.store.records import TrialRecord

RANDOM_ATTEMPTS = 4096
"""Number of random points to try after the proposals of the study's own sampler."""
NEARBY = 2048
"""Number of random points of which the nearest to a refused proposal are tried."""


class NoPointLeftError(Exception):
    """No point is left that meets the constraints and fits."""


def suggest_point(trial: optuna.Trial, space: Mapping[str, Range]) -> dict[str, Any]:
    """Suggest a value for every key of the space; values that the trial already has are kept.

    Of a fork the keys of its trunk are added, which Optuna keeps as attributes of the trial.
    """
    suggested = {key: trial._suggest(key, distribution) for key, distribution in distributions(space).items()}
    point = constants(space) | suggested
    return {key: point[key] for key in space} | trunk_part(trial.user_attrs)


class FeasibleSampler(BaseSampler):
    """Asks the study's sampler again until a point meets the constraints and has not been tried.

    Every trial has its own sampler, seeded by the study's seed and the trial's number. Samplers read all results from
    the storage, so a resumed study continues as if it had not been interrupted.

    Args:
        config: config of the study.
        records: function that gives the records of the trials so far, for samplers that need them.
        flops_of: function that gives the training FLOPs of a trial, for samplers that need them.
        earlier: earlier studies, for samplers that learn from them.
    """

    def __init__(
        self,
        config: StudyConfig,
        records: Callable[[], Sequence[TrialRecord]] = lambda: (),
        flops_of: FlopsOf = lambda trial: trial.crop_passes,
        earlier: Sequence[EarlierStudy] = (),
    ) -> None:
        self.config, self.records, self.flops_of = config, records, flops_of
        self.space = SearchSpace(config)
        self.earlier = [transferred(self.space, study) for study in earlier]
        self.fits: Callable[[Point], bool] = lambda point: True
        """Whether a point may be proposed; a search sets it when its budget runs out."""
        self.distributions = distributions(config.space)
        self.constants = constants(config.space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All keys, which are sampled together, because constraints relate several keys."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample a new point that meets the constraints; after many attempts, one that was tried before.

        Raises:
            NoPointLeftError: if no point fits, or an exhaustive sampler has no untried one.
        """
        if not search_space:
            return {}
        trunk = trunk_part(trial.user_attrs)
        if set(search_space) <= set(trial.params) and self.space.admits(self.constants | trial.params | trunk):
            return trial.params  # a resumed trial
        others = (known for known in study.get_trials(deepcopy=False) if known.number != trial.number)
        tried = {self._identity(known.params | trunk_part(known.user_attrs)) for known in others}
        first = map(self._searched, self.space.first_points)
        if (point := next((point for point in first if self._identity(point) not in tried), None)) is not None:
            return self._chosen(study, trial, point)
        repeated = None
        for point in map(self._searched, self._proposals(study, trial)):
            whole = self.constants | point
            if self.space.admits(whole) and self.fits(whole):
                if self._identity(point) not in tried:
                    return self._chosen(study, trial, point)
                repeated = repeated or point
        if repeated is None:
            raise NoPointLeftError
        return self._chosen(study, trial, repeated)

    def _searched(self, point: Point) -> dict[str, Any]:
        return {key: point[key] for key in self.distributions} | trunk_part(point)

    @staticmethod
    def _chosen(study: optuna.Study, trial: FrozenTrial, point: Point) -> dict[str, Any]:
        """The parameters of a point; those of a fork's trunk become attributes of the trial."""
        for key, value in trunk_part(point).items():
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
            trial.set_user_attr(key, value)  # the copy that the caller reads
        return without_trunk(point)

    def _identity(self, searched: Point) -> frozenset[tuple[str, Any]]:
        return self.space.identity({**self.constants, **searched})

    def _proposals(self, study: optuna.Study, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
        own, refused = self.config.search.sampler, None
        for refused in self._ask(own, own.attempts, study, trial):
            yield refused
        if own.repaired and refused is not None and self._learns(study):
            yield from self._near({**self.constants, **refused}, seed=self._seed(trial))
        if not own.exhaustive:
            yield from self._ask(RandomConfig(), RANDOM_ATTEMPTS, study, trial)

    def _ask(
        self, component: SamplerConfig, attempts: int, study: optuna.Study, trial: FrozenTrial
    ) -> Iterator[dict[str, Any]]:
        sampler = self._build(component, trial)
        sampler.before_trial(study, trial)
        space = sampler.infer_relative_search_space(study, trial)
        for _ in range(attempts):
            point = sampler.sample_relative(study, trial, space)
            for key, distribution in self.distributions.items():
                if key not in point:
                    point[key] = sampler.sample_independent(study, trial, key, distribution)
            yield point

    def _learns(self, study: optuna.Study) -> bool:
        """Whether enough trials are finished for the study's sampler to learn from them."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return len(finished) >= self.config.search.startup_trials

    def _near(self, point: Point, *, seed: int) -> list[dict[str, Any]]:
        """Random points, half of them drawn around a point, the nearest to it first."""
        source, space = random.Random(seed), self.space  # noqa: S311 (no secret)
        drawn = [space.draw(source) for _ in range(NEARBY // 2)]
        drawn += [near(space, [point], source) for _ in range(NEARBY // 2)]
        there = encode(space.ranges, point)
        return sorted(drawn, key=lambda other: math.dist(there, encode(space.ranges, other)))

    def _seed(self, trial: FrozenTrial) -> int:
        return int(np.random.SeedSequence((self.config.search.seed, trial.number)).generate_state(1)[0])

    def _build(self, component: SamplerConfig, trial: FrozenTrial) -> BaseSampler:
        search = self.config.search
        return component.build(
            seed=self._seed(trial),
            startup_trials=search.startup_trials,
            space=self.space,
            records=self.records,
            flops_of=self.flops_of,
            earlier=self.earlier,
        )

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never called, because all keys are sampled together."""
        raise AssertionError(f"{param_name} is not a key of the space")

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Call `after_trial` of the study's sampler."""
        self._build(self.config.search.sampler, trial).after_trial(study, trial, state, values)

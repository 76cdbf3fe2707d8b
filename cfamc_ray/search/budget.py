"""The budget of a study: when it is exhausted, and which points no longer fit."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from operator import is_

from cfamc_ray.config.stages import trunk_epochs
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import CostModel, WorkOf, fit_costs
from cfamc_ray.front.front import find_front
from cfamc_ray.space.search_space import SAMPLE, SearchSpace
from cfamc_ray.store.records import TrialRecord, trials_of
from cfamc_ray.store.stop_reason import StopReason

SECONDS_PER_HOUR = 3600


class Budget:
    """Compares the costs of a study with its limits; crop passes and FLOPs are counted, seconds and memory fitted.

    Args:
        config: config of the study.
        work_of: function that counts the work of a trial.
        memory_bytes: memory that a worker of a trial may use.
        costs: cost model from a scaling study, used until this study's own trials give one.
    """

    def __init__(
        self,
        config: StudyConfig,
        *,
        work_of: WorkOf,
        memory_bytes: float = math.inf,
        costs: CostModel | None = None,
    ) -> None:
        self.config, self.work_of, self.memory_bytes, self.costs = config, work_of, memory_bytes, costs
        self._trial_of = trials_of(config)
        self._fitted: tuple[Sequence[TrialRecord], CostModel] | None = None

    def over(self, records: Sequence[TrialRecord]) -> StopReason | None:
        """Reason why no further trial may start; None if one may."""
        limits, counted = self.config.budget, [record for record in records if record.counts]
        if len(counted) >= limits.trials:
            return StopReason("trials", f"budget.trials {limits.trials} reached")
        if limits.plateau and (grown := self._growth(records)) is not None and grown < limits.plateau.tolerance:
            return StopReason(
                "plateau",
                f"the front is on a plateau: the last {limits.plateau.trials} trials added {grown:.2%} to its "
                f"hypervolume, less than budget.plateau.tolerance {limits.plateau.tolerance:.2%}",
            )
        exhaustive = self.config.search.sampler.exhaustive
        if exhaustive and next(self._untried(records), None) is None:
            return StopReason("no_point", "all points have been tried")
        left = self._left(records)
        if not left:
            return None
        model = self._model(records)
        trials = map(self.config.trial_at, self._untried(records)) if exhaustive else self._sample
        if any(self._excess(trial, left, model) is None for trial in trials):
            return None
        shown = " and ".join(f"{max(amount, 0):.3g} of budget.{name}" for name, amount in left.items())
        return StopReason("budget", f"no trial fits the remaining budget: {shown}")

    @cached_property
    def _space(self) -> SearchSpace:
        return SearchSpace(self.config)

    @cached_property
    def _sample(self) -> list[TrialConfig]:
        return list(map(self.config.trial_at, islice(self._space.points(), SAMPLE)))

    def _untried(self, records: Sequence[TrialRecord]) -> Iterator[Point]:
        """The points of a grid that no record has."""
        tried = {self._space.identity(record.point) for record in records}
        points = self._space.grid_from(len(records))
        return (point for point in points if self._space.identity(point) not in tried)

    def refusal(self, point: Point, records: Sequence[TrialRecord]) -> StopReason | None:
        """Reason why a point exceeds the remaining budget or the memory; None if it does not."""
        return self._refusal(point, self._left(records), self._model(records))

    def fits(self, records: Sequence[TrialRecord]) -> Callable[[Point], bool]:
        """A function that returns whether a point fits budget and memory, given the records."""
        left, model = self._left(records), self._model(records)
        return lambda point: self._refusal(point, left, model) is None

    def _refusal(self, point: Point, left: Mapping[str, float], model: CostModel) -> StopReason | None:
        trial = self.config.trial_at(point)
        needed = model.memory_bytes(trial)
        if needed is not None and needed > self.memory_bytes:
            limit = f"{self.memory_bytes / 1e9:.3g} GB"
            return StopReason("memory", f"would need about {needed / 1e9:.3g} GB of memory, of {limit}")
        return self._excess(trial, left, model, trunk=trunk_epochs(point))

    def _model(self, records: Sequence[TrialRecord]) -> CostModel:
        """The cost model, cached for the same records."""
        seen = self._fitted[0] if self._fitted else ()
        if self._fitted is None or len(seen) != len(records) or not all(map(is_, seen, records)):
            model = fit_costs(self.config, records, self.work_of, trial_of=self._trial_of)
            self._fitted = list(records), model.or_else(self.costs)
        return self._fitted[1]

    def _left(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """The remainder of each limit after the running trials have ended."""
        limits = self.config.budget
        maxima = {"crop_passes": limits.crop_passes, "flops": limits.flops, "hours": limits.hours}
        model = self._model(records) if limits.hours else None
        spent = dict.fromkeys(maxima, 0.0)
        for record in records:
            if record.counts and any(maxima.values()):
                for name, amount in self._spent(record, model).items():
                    spent[name] += amount
        return {name: limit - spent[name] for name, limit in maxima.items() if limit is not None}

    def _spent(self, record: TrialRecord, model: CostModel | None) -> dict[str, float]:
        if not record.ended:
            return self._planned(self._trial_of(record), model, trunk=trunk_epochs(record.point))
        places, seconds = (
            self.config.resources.trials_at_once,
            record.paid("train_seconds") + record.paid("eval_seconds"),
        )
        spent = {
            "crop_passes": record.paid("crop_passes"),
            "flops": record.paid("flops"),
            "hours": seconds / places / SECONDS_PER_HOUR,
        }
        return {name: 0.0 if math.isnan(amount) else amount for name, amount in spent.items()}

    def _planned(self, trial: TrialConfig, model: CostModel | None, *, trunk: int = 0) -> dict[str, float]:
        """What a trial will cost without the `trunk` epochs that it takes over, by the share of its crop passes."""
        seconds = (model.seconds(trial) if model else None) or 0.0
        hours = seconds / self.config.resources.trials_at_once / SECONDS_PER_HOUR
        flops = self.work_of(trial).flops if self.config.budget.flops else 0.0
        own = trial.crop_passes_after(trunk)
        share = own / trial.crop_passes
        return {"crop_passes": own, "flops": share * flops, "hours": share * hours}

    def _excess(
        self, trial: TrialConfig, left: Mapping[str, float], model: CostModel, *, trunk: int = 0
    ) -> StopReason | None:
        planned = self._planned(trial, model, trunk=trunk)
        for name, amount in left.items():
            if planned[name] > amount or amount <= 0:
                needed = f"{'about ' if name == 'hours' else ''}{planned[name]:.3g}"
                left_over = f"{max(amount, 0):.3g}"
                return StopReason("budget", f"would need {needed} of budget.{name}, of which {left_over} are left")
        return None

    def _growth(self, records: Sequence[TrialRecord]) -> float | None:
        """Relative growth of the hypervolume in the last trials of the plateau; None if there are too few trials.

        Warm-started trials are on the front from the start.
        """
        assert self.config.budget.plateau is not None
        earlier = [record for record in records if record.source]
        own = [record for record in records if record.counts and record.ended]
        before = own[: -self.config.budget.plateau.trials]
        if not any(record.status == "finished" for record in before):
            return None
        # The same reference for both: the worst value of a minimised objective would change it.
        now = find_front(self.config, [*earlier, *own])
        then = find_front(self.config, [*earlier, *before], reference=now.reference)
        return (now.hypervolume - then.hypervolume) / now.hypervolume if now.hypervolume > 0 else None

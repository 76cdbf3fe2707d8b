"""What a study may still spend: when it is over, and which points no longer fit."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import is_
from typing import Any

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import CostModel, WorkOf, fit_costs
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord, trials_of

SECONDS_PER_HOUR = 3600
SAMPLE = 256
"""Points of the space that stand for all: a study is over when none of them fits."""


class Budget:
    """Costs of a study against its limits. Passes and FLOPs are exact, seconds and memory are fitted to what has run.

    Args:
        config: of the study.
        work_of: what a trial's training comes to.
        memory_bytes: that a worker of a trial may use.
        costs: what was measured elsewhere, for what this study's trials do not tell yet.
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
        self._sample: list[TrialConfig] | None = None
        self._fitted: tuple[Sequence[TrialRecord], CostModel] | None = None

    def over(self, records: Sequence[TrialRecord]) -> str:
        """Why no further trial is to start; empty while one may."""
        limits, counted = self.config.budget, [record for record in records if record.counts]
        if len(counted) >= limits.trials:
            return f"budget.trials {limits.trials} reached"
        if limits.plateau and (grown := self._growth(counted)) is not None and grown < limits.plateau.tolerance:
            return (
                f"the front is on a plateau: the last {limits.plateau.trials} trials added {grown:.2%} to its "
                f"hypervolume, less than budget.plateau.tolerance {limits.plateau.tolerance:.2%}"
            )
        left = self._left(records)
        if not left:
            return ""
        if self._sample is None:
            self._sample = [self.config.trial_at(point) for point in islice(self.config.points(), SAMPLE)]
        model = self._model(records)
        if any(not self._excess(trial, left, model) for trial in self._sample):
            return ""
        shown = " and ".join(f"{max(amount, 0):.3g} of budget.{name}" for name, amount in left.items())
        return f"no trial fits what is left: {shown}"

    def refusal(self, point: Mapping[str, Any], records: Sequence[TrialRecord]) -> str:
        """Why a point cannot be paid or cannot fit the memory; empty where it can."""
        return self._refusal(point, self._left(records), self._model(records))

    def fits(self, records: Sequence[TrialRecord]) -> Callable[[Mapping[str, Any]], bool]:
        """Whether a point can be paid and fits the memory, of many points while the records stay as they are."""
        left, model = self._left(records), self._model(records)
        return lambda point: not self._refusal(point, left, model)

    def _refusal(self, point: Mapping[str, Any], left: Mapping[str, float], model: CostModel) -> str:
        trial = self.config.trial_at(point)
        needed = model.memory_bytes(trial)
        if needed is not None and needed > self.memory_bytes:
            return f"would need about {needed / 1e9:.3g} GB of memory, of {self.memory_bytes / 1e9:.3g} GB"
        return self._excess(trial, left, model)

    def _model(self, records: Sequence[TrialRecord]) -> CostModel:
        """Fitted once to the same records."""
        seen = self._fitted[0] if self._fitted else ()
        if self._fitted is None or len(seen) != len(records) or not all(map(is_, seen, records)):
            model = fit_costs(self.config, records, self.work_of, trial_of=self._trial_of)
            self._fitted = list(records), model.or_else(self.costs)
        return self._fitted[1]

    def _left(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """What is left of each limit once the running trials have ended."""
        limits = self.config.budget
        given = {"crop_passes": limits.crop_passes, "flops": limits.flops, "hours": limits.hours}
        model = self._model(records) if limits.hours else None
        spent = dict.fromkeys(given, 0.0)
        for record in records:
            if record.counts and any(given.values()):
                for name, amount in self._spent(record, model).items():
                    spent[name] += amount
        return {name: limit - spent[name] for name, limit in given.items() if limit is not None}

    def _spent(self, record: TrialRecord, model: CostModel | None) -> dict[str, float]:
        if not record.ended:
            return self._planned(self._trial_of(record), model)
        places, seconds = (
            self.config.resources.trials_at_once,
            record.value("train_seconds") + record.value("eval_seconds"),
        )
        spent = {
            "crop_passes": record.value("crop_passes"),
            "flops": record.value("flops"),
            "hours": seconds / places / SECONDS_PER_HOUR,
        }
        return {name: 0.0 if math.isnan(amount) else amount for name, amount in spent.items()}

    def _planned(self, trial: TrialConfig, model: CostModel | None) -> dict[str, float]:
        seconds = (model.seconds(trial) if model else None) or 0.0
        hours = seconds / self.config.resources.trials_at_once / SECONDS_PER_HOUR
        flops = self.work_of(trial).flops if self.config.budget.flops else 0.0
        return {"crop_passes": trial.crop_passes, "flops": flops, "hours": hours}

    def _excess(self, trial: TrialConfig, left: Mapping[str, float], model: CostModel) -> str:
        planned = self._planned(trial, model)
        for name, amount in left.items():
            if planned[name] > amount or amount <= 0:
                about = "about " if name == "hours" else ""
                return f"would need {about}{planned[name]:.3g} of budget.{name}, of which {max(amount, 0):.3g} are left"
        return ""

    def _growth(self, records: Sequence[TrialRecord]) -> float | None:
        """Relative growth of the hypervolume over the plateau's last trials; None before there are so many."""
        assert self.config.budget.plateau is not None
        ended = [record for record in records if record.ended]
        before = ended[: -self.config.budget.plateau.trials]
        if not any(record.status == "finished" for record in before):
            return None
        # One reference for both, or a minimised objective's worst value would move it.
        now = find_front(self.config, ended)
        then = find_front(self.config, before, reference=now.reference)
        return (now.hypervolume - then.hypervolume) / now.hypervolume if now.hypervolume > 0 else None

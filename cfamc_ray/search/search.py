"""The search: which trial comes next, and which one is stopped; driven by Ray Tune, or by a simulated clock.

Its state is in the trials' records and in Optuna's storage, so a search that is created again from both continues as if
it had not been interrupted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.model import CostModel, WorkOf
from cfamc_ray.front.front import most_useful
from cfamc_ray.search.bookkeeping import open_study, reconcile, tell
from cfamc_ray.search.budget import Budget
from cfamc_ray.search.feasible_sampler import FeasibleSampler, NoPointLeftError, suggest_point
from cfamc_ray.search.mo_asha import MultiObjectiveAsha
from cfamc_ray.store.earlier import EarlierStudy
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason

REFUSALS = 8
"""Number of refused points in a row after which only points that fit are proposed."""
ALIKE = 3
"""Number of trials in a row that end the study if they fail for the same reason."""


class Proposal(NamedTuple):
    """A trial to run."""

    number: int
    point: Mapping[str, Any]


class Search:
    """Proposes trials, stops some at their rungs, and decides when the study is over.

    Args:
        config: config of the study.
        storage: Optuna's storage.
        records: records of the trials so far, finished or not.
        work_of: function that counts the work of a trial.
        memory_bytes: memory that a worker of a trial may use.
        costs: cost model from a scaling study, used until this study's own trials give one.
        earlier: earlier studies from which the sampler learns.
        on_refused: called with the record of a trial that ends here: a point that does not fit and never runs, or a
            trial that was interrupted right before it was stopped.

    Raises:
        InputError: if the storage holds another study.
    """

    def __init__(
        self,
        config: StudyConfig,
        storage: BaseStorage,
        records: Sequence[TrialRecord] = (),
        *,
        work_of: WorkOf,
        memory_bytes: float = math.inf,
        costs: CostModel | None = None,
        earlier: Sequence[EarlierStudy] = (),
        on_refused: Callable[[TrialRecord], None] = lambda record: None,
    ) -> None:
        self.config, self.on_refused = config, on_refused
        self.records = {record.number: record for record in records}
        self.budget = Budget(config, work_of=work_of, memory_bytes=memory_bytes, costs=costs)
        self.mo_asha = MultiObjectiveAsha(config) if config.search.mo_asha else None
        self.sampler = FeasibleSampler(
            config, lambda: list(self.records.values()), lambda trial: work_of(trial).flops, earlier
        )
        self.study = open_study(config, storage, self.sampler)
        self._unfinished = reconcile(self.study, config, records)
        self._ended: list[TrialRecord] = []
        self._no_point = False
        self.halted: StopReason | None = None
        """Reason to propose no more trials although the study is not over."""

    @property
    def over(self) -> StopReason | None:
        """Reason why no further trial may start; None if one may."""
        if self.halted:
            return self.halted
        if self._failed_alike(last := self._ended[-ALIKE:]):
            return StopReason(
                "failed_alike",
                f"the last {ALIKE} trials failed alike ({last[-1].reason}): fix the cause, then continue with --resume",
            )
        if self._unfinished:
            return None
        if self._no_point:
            return StopReason("no_point", "no other point was found that meets the constraints and fits")
        return self.budget.over(list(self.records.values()))

    @staticmethod
    def _failed_alike(last: Sequence[TrialRecord]) -> bool:
        causes = {(record.kind, record.origin) if record.status == "failed" else None for record in last}
        return len(last) == ALIKE and len(causes) == 1 and None not in causes

    def suggest(self) -> Proposal | None:
        """The next trial, interrupted ones first; None if the study is over."""
        refused = 0
        self.sampler.fits = lambda point: True
        while self.over is None:
            if refused >= REFUSALS:
                self.sampler.fits = self.budget.fits(list(self.records.values()))
            if (proposal := self._next()) is None:
                self._no_point = True
                continue
            self.records.setdefault(proposal.number, TrialRecord(proposal.number, proposal.point))
            current = self.records[proposal.number]
            record = self._stopped(current) if current.rows else self._refused(current)
            if record is None:
                return proposal
            self.on_refused(record)
            self.ended(record)
            refused += record.status == "infeasible"
        return None

    def _refused(self, new: TrialRecord) -> TrialRecord | None:
        others = [record for record in self.records.values() if record.number != new.number]
        reason = self.budget.refusal(new.point, others)
        return new.ended_by("infeasible", reason) if reason else None

    def _stopped(self, interrupted: TrialRecord) -> TrialRecord | None:
        """The record of a trial that was interrupted between its row and its stop; None if it continues."""
        reason = self.observe(interrupted)
        return interrupted.ended_by("stopped", reason) if reason else None

    def _next(self) -> Proposal | None:
        """The next trial, interrupted ones first; None if no point is left."""
        trial = self._interrupted() or self.study.ask()
        try:
            return Proposal(trial.number, suggest_point(trial, self.config.space))
        except NoPointLeftError:
            self.study.tell(trial, state=TrialState.FAIL)  # otherwise it would be resumed
            return None

    def _interrupted(self) -> optuna.Trial | None:
        """The first interrupted trial, if any. One of whose point only a part was stored is given up."""
        while self._unfinished:
            stored = self.study.get_trials(deepcopy=False)[self._unfinished.pop(0)]
            trial = optuna.Trial(self.study, stored._trial_id)
            if not 0 < len(stored.params) < len(self.sampler.distributions):
                return trial
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def observe(self, record: TrialRecord) -> StopReason | None:
        """Process a trial's new row; return the reason to stop the trial, or None."""
        self.records[record.number] = record
        if self.mo_asha is None or record.ended:
            return None
        return self.mo_asha.verdict(record, self.records.values())

    def again(self, record: TrialRecord) -> None:
        """Propose a trial again whose process was lost."""
        self.records[record.number] = record
        self._unfinished.append(record.number)

    def ended(self, record: TrialRecord) -> None:
        """Record how a trial ended, and report it to the sampler."""
        self.records[record.number] = record
        if record.status != "infeasible":
            self._ended.append(record)
        before = [other for other in self.records.values() if other.number < record.number]
        tell(self.study, record.number, self.config, most_useful(self.config, record, before))

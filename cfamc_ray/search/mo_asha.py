"""MO-ASHA: trials that fall behind are stopped early, by all objectives at once and against equals.

Successive halving in its asynchronous form (Li et al., arXiv 1810.05934), with the selection of several objectives by
non-dominated rank, then spread (Schmucker et al., arXiv 2106.12639). Two things differ. A rung is a fraction of the
trial's own schedule, for a half-annealed encoder is no match for a fully annealed one of fewer epochs. And the trial's
planned FLOPs are always among what is compared: a short, cheap trial is not beaten for being cheap.

It holds no state: rungs are read off the trials' rows, so they survive whatever the trials' folders survive.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.front.dominance import best_first
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord, trials_of
from cfamc_ray.store.stop_reason import StopReason


class Rung(NamedTuple):
    """Where a trial is judged."""

    share: float
    """Of its schedule, as the config names it."""
    epoch: int
    """Its first measured epoch that reaches this share; always before the last."""


def rungs_of(trial: TrialConfig, shares: Iterable[float]) -> list[Rung]:
    """The rungs that a trial passes, the first one first; none where it has but one epoch.

    An epoch that reaches several shares at once counts for the largest of them, so that trials meet at a rung with
    schedules that are about equally far.
    """
    epochs = trial.pretraining.epochs
    by_epoch = {}
    for share in sorted(shares):
        reached = range(max(math.ceil(share * epochs - 1e-9), 1), epochs)
        epoch = next((epoch for epoch in reached if trial.evaluates(epoch)), None)
        if epoch is not None:
            by_epoch[epoch] = share
    return [Rung(share, epoch) for epoch, share in by_epoch.items()]


class MultiObjectiveAsha:
    """Judges trials at their rungs.

    Args:
        config: of the study; `search.mo_asha` must be set.
    """

    def __init__(self, config: StudyConfig) -> None:
        assert config.search.mo_asha is not None
        self.config, self.mo_asha = config, config.search.mo_asha
        self.directions = [*config.objectives.values(), "minimize"]
        self._trial_of = trials_of(config)

    def verdict(self, record: TrialRecord, others: Iterable[TrialRecord]) -> StopReason | None:
        """Why a trial is to be stopped after its last epoch; None where it goes on.

        Args:
            record: of the trial.
            others: all other trials so far; those that have passed the same rung are compared.
        """
        rung = next((rung for rung in self._rungs(record) if rung.epoch == len(record.rows)), None)
        if rung is None:
            return None
        peers = [record, *(other for other in others if other.number != record.number)]
        passed = [values for peer in peers if (values := self._values_at(peer, rung.share)) is not None]
        survivors = math.ceil(self.mo_asha.keep * len(passed))
        place = best_first(passed, self.directions).index(0) + 1
        if place <= survivors:
            return None
        return StopReason(
            "fell_behind",
            f"fell behind after {rung.share:.3g} of its schedule: place {place} of the {len(passed)} trials that came "
            f"so far, of which {survivors} go on",
        )

    def _rungs(self, record: TrialRecord) -> list[Rung]:
        return rungs_of(self._trial_of(record), self.mo_asha.rungs)

    def _values_at(self, record: TrialRecord, share: float) -> list[float] | None:
        """What is compared at a rung; None of a trial that did not come so far."""
        rung = next((rung for rung in self._rungs(record) if rung.share == share), None)
        if rung is None or rung.epoch > len(record.rows):
            return None
        then = TrialRecord(record.number, record.point, record.rows[: rung.epoch])
        whole = self._trial_of(record).pretraining.epochs / rung.epoch
        return [
            *(then.value(name) * (whole if find_metric(name).planned else 1.0) for name in self.config.objectives),
            then.value("flops") * whole,
        ]

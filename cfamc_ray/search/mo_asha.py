"""MO-ASHA: trials that fall behind in all objectives are stopped early.

Asynchronous successive halving (Li et al., arXiv 1810.05934), with multi-objective selection by non-dominated rank,
then spread (Schmucker et al., arXiv 2106.12639). Two things differ. A rung is a fraction of the trial's own schedule,
because a half-annealed encoder cannot be compared with a fully annealed one of fewer epochs. And the trial's planned
FLOPs are always compared too, so that a short, cheap trial is not stopped because it is cheap.

It holds no state: rungs are computed from the trials' rows.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.front.dominance import best_groups_first
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord, trials_of
from cfamc_ray.store.stop_reason import StopReason


class Rung(NamedTuple):
    """A rung, at which a trial is compared with others."""

    share: float
    """Fraction of the trial's schedule, as in the config."""
    epoch: int
    """First evaluated epoch that reaches this fraction; always before the last epoch."""


def rungs_of(trial: TrialConfig, shares: Iterable[float]) -> list[Rung]:
    """The rungs of a trial in order; none if it has only one epoch.

    An epoch that reaches several fractions at once counts for the largest of them, so that trials at a rung have
    finished about the same fraction of their schedules.
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
    """Decides at rungs which trials to stop.

    Args:
        config: config of the study; `search.mo_asha` must be set.
    """

    def __init__(self, config: StudyConfig) -> None:
        assert config.search.mo_asha is not None
        self.config, self.mo_asha = config, config.search.mo_asha
        self.directions = [*config.objectives.values(), "minimize"]
        self._trial_of = trials_of(config)

    def verdict(self, record: TrialRecord, others: Iterable[TrialRecord]) -> StopReason | None:
        """Reason to stop a trial after its last epoch; None if it continues.

        Args:
            record: record of the trial.
            others: records of all other trials so far; those that have passed the same rung are compared.
        """
        rung = next((rung for rung in self._rungs(record) if rung.epoch == len(record.rows)), None)
        if rung is None:
            return None
        peers = [record, *(other for other in others if other.number != record.number)]
        passed = [points for peer in peers if (points := self._values_at(peer, rung.share)) is not None]
        survivors = math.ceil(self.mo_asha.keep * len(passed))
        place = best_groups_first(passed, self.directions).index(0) + 1
        if place <= survivors:
            return None
        return StopReason(
            "fell_behind",
            f"fell behind after {rung.share:.3g} of its schedule: place {place} of the {len(passed)} trials at this "
            f"rung, of which {survivors} continue",
        )

    def _rungs(self, record: TrialRecord) -> list[Rung]:
        return rungs_of(self._trial_of(record), self.mo_asha.rungs)

    def _values_at(self, record: TrialRecord, share: float) -> list[list[float]] | None:
        """Values of a trial at a rung, for each of its operating points; None if it did not reach the rung itself."""
        rung = next((rung for rung in self._rungs(record) if rung.share == share), None)
        if rung is None or not record.trunk_epochs < rung.epoch <= len(record.rows):
            return None
        then = TrialRecord(record.number, record.point, record.rows[: rung.epoch])
        trial = self._trial_of(record)
        whole = trial.crop_passes / trial.crop_passes_until(rung.epoch)
        return [
            [
                *(point.value(name) * (whole if find_metric(name).planned else 1.0) for name in self.config.objectives),
                point.value("flops") * whole,
            ]
            for point in then.each_point(self.config.objectives)
        ]

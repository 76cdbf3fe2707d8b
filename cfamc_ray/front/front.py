"""The front of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_setting
from cfamc_ray.front.dominance import hypervolume, pareto_front, signs
from cfamc_ray.metrics import Direction
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2
from cfamc_ray.store.trial_tables import applied_part


@dataclass(frozen=True)
class Front:
    """The operating points of a study's finished trials, split into its Pareto front and the others."""

    config: StudyConfig
    """Config of the study."""
    members: list[TrialRecord]
    """Records of trials at the operating points that no other one dominates, the best in the first objective first."""
    dominated: list[TrialRecord]
    hypervolume: float
    """Of the front, bounded by the reference."""
    finished: int
    """Number of finished trials, with those that miss an objective."""
    reference: list[float]
    """The worst value of each objective that counts for the hypervolume."""

    @property
    def objectives(self) -> Mapping[str, Direction]:
        """Direction of each objective, by metric."""
        return self.config.objectives

    @property
    def trials(self) -> set[int]:
        """Numbers of the trials that are on it."""
        return {record.number for record in self.members}

    @property
    def size(self) -> str:
        """Number of its points in words: ``7 operating points of 3 trials``, or ``3 points``."""
        return self._points + (f" of {count_of(len(self.trials), 'trial')}" if self.at_operating_points else "")

    @property
    def sentence(self) -> str:
        """Which share of the finished trials is on it, in words: ``2 of 3 finished trials are on the front``."""
        of_trials = f"{len(self.trials)} of "
        if self.at_operating_points:
            of_trials = f"{self._points} of {of_trials}the "
        are = "is" if len(self.members) == 1 else "are"
        return f"{of_trials}{self.finished} finished trials {are} on the front"

    @property
    def at_operating_points(self) -> bool:
        """Whether its points are operating points of trials, of which one trial may have several."""
        return any(record.l2 is not None for record in self.members)

    def settings(self, record: TrialRecord) -> dict[str, str]:
        """The searched keys that a trial has, and their values as people read them."""
        norms = norms_of(self.config)
        return {k: format_setting(k, value, norms) for k, value in applied_part(self.config, record.point).items()}

    @property
    def _points(self) -> str:
        return count_of(len(self.members), "operating point" if self.at_operating_points else "point")


def count_of(number: int, name: str) -> str:
    """A number of things in words: ``1 trial``, ``2 trials``."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def name_of(record: TrialRecord) -> str:
    """A trial as people call it, with its operating point if the record stands for one: ``trial 7 at L2 0.1``."""
    at_point = "" if record.l2 is None else f" at L2 {format_setting(L2, record.l2)}"
    return f"trial {record.number}{at_point}"


def find_front(
    config: StudyConfig, records: Sequence[TrialRecord], *, reference: Sequence[float] | None = None
) -> Front:
    """The Pareto front of the finished trials at each of their operating points.

    A trial without a value for an objective is left out.

    Args:
        config: of the study.
        records: of its trials.
        reference: of the hypervolume; None: that of the config.
    """
    objectives, directions = config.objectives, list(config.objectives.values())
    each = {key: point for r in records if r.status == "finished" for key, point in _points(r, objectives).items()}
    complete = {key: point for key, point in each.items() if np.isfinite(key[1]).all()}
    values = np.array([value for _, value in complete]).reshape(-1, len(objectives))
    mask = pareto_front(values, directions)
    worst = [_reference(config, name, values[:, place]) for place, name in enumerate(objectives)]
    reference = worst if reference is None else list(reference)
    first, sign = next(iter(objectives)), signs(directions)[0]
    on_front = [point for point, on in zip(complete.values(), mask, strict=True) if on]
    return Front(
        config=config,
        members=sorted(on_front, key=lambda point: -sign * point.value(first)),
        dominated=[point for point, on in zip(complete.values(), mask, strict=True) if not on],
        hypervolume=hypervolume(values, reference, directions),
        finished=len({record.number for record in records if record.status == "finished"}),
        reference=reference,
    )


def _points(record: TrialRecord, objectives: Mapping[str, str]) -> dict[tuple[int, tuple[float, ...]], TrialRecord]:
    """The record at its operating points, by number and values: of points with equal values the first."""
    points = reversed(record.each_point(objectives))
    different = {(point.number, tuple(point.values(objectives))): point for point in points}
    return dict(reversed(different.items()))


def most_useful(config: StudyConfig, record: TrialRecord, others: Sequence[TrialRecord]) -> TrialRecord:
    """A trial at the operating point that adds most to the hypervolume of others; itself if none does.

    Args:
        config: of the study.
        record: of the trial; one that is not finished adds nothing.
        others: of other trials.
    """
    points = record.each_point(config.objectives)
    if record.status != "finished" or len(points) == 1:
        return record
    front, directions = find_front(config, others), list(config.objectives.values())
    reference = (front if front.members else find_front(config, [record])).reference
    members = [member.values(config.objectives) for member in front.members]
    volumes = [hypervolume([*members, point.values(config.objectives)], reference, directions) for point in points]
    return points[int(np.argmax(volumes))] if max(volumes) > front.hypervolume else record


def _reference(config: StudyConfig, name: str, values: np.ndarray) -> float:
    if name in config.reference:
        return config.reference[name]
    if config.objectives[name] == "maximize":
        return 0.0
    return float(values.max()) if len(values) else 0.0

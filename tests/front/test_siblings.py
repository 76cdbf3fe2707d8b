"""Siblings, what they cost together, and what interpolations between them add to a front."""

from collections.abc import Mapping
from typing import Any

from made_by_hand import COST, operating_point, record, row, study

from cfamc_ray.config.stages import fork_of
from cfamc_ray.front.front import find_front
from cfamc_ray.front.interpolation import costs_of, extend_front, siblings
from cfamc_ray.store.interpolations import Interpolation
from cfamc_ray.store.records import TrialRecord

TRUNK = {"crops.views": 4, "perturbation.epsilon": 2 / 255}


def trial(number: int, point: Mapping[str, Any], **metrics: Any) -> TrialRecord:
    first, second = ({name: factor * cost for name, cost in COST.items()} for factor in (1, 2))
    rows = [{**row(1), **first}, {**row(2, done=True), **second, **metrics}]
    return TrialRecord(number, point, rows, "finished")


def fork(number: int, epsilon: float, **metrics: Any) -> TrialRecord:
    return trial(number, fork_of(TRUNK, {"perturbation.epsilon": epsilon}, 1), **metrics)


def between(share: float, *points: tuple[float, float, float]) -> Interpolation:
    best = {"clean_accuracy": points[0][1], "robust_accuracy": points[0][2]}
    given = {**row(1, done=True), **best, "operating_points": [operating_point(*point) for point in points]}
    return Interpolation(0, 1, share, given)


def test_siblings_have_one_trunk_and_are_finished_and_among_the_numbers() -> None:
    other = {**TRUNK, "crops.views": 8}
    trials = [trial(0, TRUNK), fork(1, 4 / 255), fork(2, 8 / 255), trial(3, other)]
    found = [(one.number, two.number) for one, two in siblings(trials, range(4))]
    assert found == [(0, 1), (0, 2), (1, 2)]
    assert [(one.number, two.number) for one, two in siblings(trials, {0, 2, 3})] == [(0, 2)]
    unfinished = TrialRecord(1, trials[1].point, trials[1].rows[:1], "running")
    assert siblings([trials[0], unfinished], range(4)) == []


def test_siblings_pay_for_their_common_epochs_once_and_the_larger_memory() -> None:
    one, two = trial(0, TRUNK), fork(1, 4 / 255, crop_passes=500, peak_memory_bytes=10**9)
    paid = costs_of(one, two)
    assert paid["crop_passes"] == 200 + 500 - 100
    assert paid["train_seconds"] == 4 + 4 - 2
    assert paid["peak_memory_bytes"] == 10**9


def test_points_of_interpolations_join_the_front_where_no_trial_dominates_them() -> None:
    config = study()
    trials = [
        record(0, clean_accuracy=0.8, robust_accuracy=0.1),
        record(1, clean_accuracy=0.6, robust_accuracy=0.3),
    ]
    made = [between(0.5, (0.1, 0.7, 0.25), (1.0, 0.55, 0.2)), between(0.25, (0.1, 0.75, 0.05))]
    extended = extend_front(config, trials, made)
    front = extended.front
    assert [(member.number, member.l2) for member in front.members] == [(0, None), (2, 0.1), (1, None)]
    gain = front.hypervolume - find_front(config, trials).hypervolume
    assert abs(gain - 0.1 * 0.15) < 1e-12
    assert extended.of_trials == find_front(config, trials)
    (only,) = extended.table.rows
    assert (only["first"], only["second"], only["share"]) == (0, 1, 0.5)
    assert extended.sentence.startswith(
        "2 interpolations between trials with common first epochs, 1 on the front; the hypervolume is 0.215 with"
    )


def test_a_dominated_interpolation_adds_nothing_also_where_its_cost_is_the_worst() -> None:
    config = study(objectives={"clean_accuracy": "maximize", "robust_accuracy": "maximize", "crop_passes": "minimize"})
    trials = [
        record(0, clean_accuracy=0.8, robust_accuracy=0.1, crop_passes=100),
        record(1, clean_accuracy=0.6, robust_accuracy=0.3, crop_passes=120),
    ]
    given = {**row(1, done=True), "clean_accuracy": 0.5, "robust_accuracy": 0.05, "crop_passes": 170}
    extended = extend_front(config, trials, [Interpolation(0, 1, 0.5, given)])
    assert extended.of_trials.hypervolume == extended.front.hypervolume > 0


def test_two_trials_of_one_point_are_no_siblings_without_a_fork() -> None:
    assert siblings([trial(0, TRUNK), trial(1, TRUNK)], range(2)) == []


def test_without_an_interpolation_on_the_front_the_table_has_no_rows() -> None:
    trials = [record(0, clean_accuracy=0.8, robust_accuracy=0.3)]
    assert extend_front(study(), trials, [between(0.5, (0.1, 0.7, 0.25))]).table.rows == []

import math

import pytest
from made_by_hand import curve, record, study

from cfamc_ray.front.front import find_front, name_of
from cfamc_ray.front.progress import progress_of
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord


def scored(number: int, clean: float | None, robust: float | None, status: Status = "finished") -> TrialRecord:
    return record(number, status=status, clean_accuracy=clean, robust_accuracy=robust)


def numbers(records: list[TrialRecord]) -> list[int]:
    return [found.number for found in records]


TRIALS = [
    scored(0, 0.5, 0.5),
    scored(1, 0.9, 0.1),
    scored(2, 0.4, 0.4),
    scored(3, 0.5, 0.5),
    scored(4, 0.99, 0.99, "running"),
    scored(5, 0.99, 0.99, "stopped"),
    scored(6, 0.99, 0.99, "failed"),
    scored(7, 0.99, 0.99, "infeasible"),
    scored(8, 0.99, None),
    TrialRecord(9, {}),
]


def test_the_front_is_over_finished_trials_with_all_objectives_best_first() -> None:
    front = find_front(study(), TRIALS)
    assert numbers(front.members) == [1, 0, 3]
    assert numbers(front.dominated) == [2]
    assert front.reference == [0.0, 0.0]
    assert front.hypervolume == pytest.approx(0.9 * 0.1 + 0.5 * 0.4)


def test_best_first_is_lowest_first_where_the_first_objective_is_minimised() -> None:
    config = study(objectives={"flops": "minimize", "clean_accuracy": "maximize"})
    trials = [record(n, flops=flops, clean_accuracy=flops / 10) for n, flops in enumerate([5, 1, 9])]
    assert numbers(find_front(config, trials).members) == [1, 0, 2]


def test_no_finished_trial_has_an_empty_front() -> None:
    front = find_front(study(objectives={"flops": "minimize"}), TRIALS[4:8])
    assert (front.members, front.dominated, front.hypervolume) == ([], [], 0.0)


@pytest.mark.parametrize(
    ("given", "reference", "volume"),
    [
        ({}, [0.0, 30.0], 0.5 * 20),
        ({"flops": 40}, [0.0, 40.0], 0.5 * 30 + 0.25 * 10),
        ({"clean_accuracy": 0.25, "flops": 40}, [0.25, 40.0], 0.25 * 30 + 0.25 * 10),
    ],
)
def test_the_reference_is_as_given_else_zero_or_the_worst_finished_value(
    given: dict[str, float], reference: list[float], volume: float
) -> None:
    config = study(objectives={"clean_accuracy": "maximize", "flops": "minimize"}, reference=given)
    trials = [
        record(0, clean_accuracy=0.5, flops=10),
        record(1, clean_accuracy=0.75, flops=30),
        record(2, status="stopped", clean_accuracy=0.9, flops=1000),
    ]
    front = find_front(config, trials)
    assert front.reference == reference
    assert front.hypervolume == pytest.approx(volume)


def test_another_reference_changes_the_volume_and_nothing_else() -> None:
    config = study(objectives={"clean_accuracy": "maximize", "flops": "minimize"})
    trials = [record(0, clean_accuracy=0.5, flops=10), record(1, clean_accuracy=0.75, flops=30)]
    front, other = find_front(config, trials), find_front(config, trials, reference=[0.25, 40.0])
    assert (other.members, other.dominated) == (front.members, front.dominated)
    assert other.reference == [0.25, 40.0]
    assert other.hypervolume == pytest.approx(0.25 * 30 + 0.25 * 10)


def test_progress_counts_trials_and_names_the_best_of_each_objective() -> None:
    config = study(objectives={"clean_accuracy": "maximize", "flops": "minimize"}, budget={"trials": 12})
    others: list[Status] = ["stopped", "failed", "infeasible", "running", "running"]
    trials = [
        record(0, clean_accuracy=0.5, flops=10),
        record(1, clean_accuracy=0.75, flops=30),
        record(2, clean_accuracy=0.6, flops=40),
        record(3, clean_accuracy=None, flops=1),
        *(record(number, status=status, clean_accuracy=0.99, flops=1) for number, status in enumerate(others, start=4)),
    ]
    progress = progress_of(config, trials, seconds=30.0, ended_before=2)
    assert (progress.total, progress.finished, progress.running) == (12, 4, 2)
    assert progress.others == {"stopped": 1, "failed": 1, "refused": 1}
    assert progress.best == {"clean_accuracy": 0.75, "flops": 10}
    assert progress.front == "2 points"
    assert progress.seconds == 30.0
    # Of 6 that ended and are paid for, 4 did in these 30 seconds; 6 are left.
    assert progress.seconds_left == pytest.approx(45.0)


@pytest.mark.parametrize(("ended_before", "left"), [(0, 50.0), (1, math.nan)])
def test_the_time_left_is_unknown_until_a_trial_has_ended(ended_before: int, left: float) -> None:
    config = study(budget={"trials": 6})
    progress = progress_of(config, [record(0)], seconds=10.0, ended_before=ended_before)
    assert progress.seconds_left == pytest.approx(left, nan_ok=True)


def test_nothing_is_the_best_of_no_trial() -> None:
    progress = progress_of(study(), [], seconds=0.0, ended_before=0)
    assert progress.best.keys() == {"clean_accuracy", "robust_accuracy"}
    assert all(math.isnan(value) for value in progress.best.values())
    assert (progress.finished, progress.running, progress.others, progress.front) == (0, 0, {}, "0 points")


CURVES = [
    curve(7, (0.01, 0.9, 0.1), (0.1, 0.8, 0.3)),
    curve(8, (0.01, 0.7, 0.2), (0.1, 0.6, 0.4)),
    scored(9, 0.1, None),
]


def test_a_front_of_operating_points_names_points_and_trials() -> None:
    front = find_front(study(), CURVES)
    assert [name_of(member) for member in front.members] == [
        "trial 7 at L2 0.01",
        "trial 7 at L2 0.1",
        "trial 8 at L2 0.1",
    ]
    assert front.sentence == "3 operating points of 2 of the 3 finished trials are on the front"
    assert front.size == "3 operating points of 2 trials"
    assert (front.trials, front.finished) == ({7, 8}, 3)


def test_one_is_singular() -> None:
    front = find_front(study(), [curve(7, (0.01, 0.9, 0.1), (0.1, 0.9, 0.3))])
    assert front.sentence == "1 operating point of 1 of the 1 finished trials is on the front"
    assert front.size == "1 operating point of 1 trial"


def test_without_operating_points_a_front_counts_trials() -> None:
    front = find_front(study(), TRIALS)
    assert (front.sentence, front.size) == ("3 of 5 finished trials are on the front", "3 points")
    assert find_front(study(), TRIALS[:1]).sentence == "1 of 1 finished trials is on the front"
    assert name_of(TRIALS[0]) == "trial 0"

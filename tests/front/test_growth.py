from dataclasses import replace

import numpy as np
import pytest
from made_by_hand import record, study

from cfamc_ray.front import growth
from cfamc_ray.front.dominance import hypervolume
from cfamc_ray.front.front import find_front
from cfamc_ray.front.growth import find_growth, find_spending
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord

TRIALS = [
    record(0, clean_accuracy=0.5, robust_accuracy=0.2),
    record(1, status="stopped", clean_accuracy=0.9, robust_accuracy=0.9),
    TrialRecord(2, {}, (), "failed", "diverged"),
    record(3, clean_accuracy=0.2, robust_accuracy=0.5),
    record(4, clean_accuracy=0.1, robust_accuracy=0.1),
]


def test_the_front_grows_by_what_finishes_and_everything_that_trained_is_paid_for() -> None:
    found = find_growth(study(), TRIALS)
    assert found.trials == (0, 1, 3, 4)
    assert found.crop_passes == (100, 200, 300, 400)
    assert found.seconds == (3, 6, 9, 12)
    assert found.hypervolume == pytest.approx((0.1, 0.1, 0.16, 0.16))


def test_it_ends_at_the_fronts_hypervolume_also_where_its_reference_is_the_worst_trial() -> None:
    config = study(objectives={"clean_accuracy": "maximize", "flops": "minimize"})
    trials = [record(n, clean_accuracy=0.1 * n, flops=100 - n) for n in range(1, 5)]
    found = find_growth(config, trials)
    assert found.hypervolume[-1] == find_front(config, trials).hypervolume > 0
    assert list(found.hypervolume) == sorted(found.hypervolume)


def test_what_was_taken_over_counts_from_the_start_and_costs_nothing() -> None:
    trials = [TRIALS[0], replace(TRIALS[3], number=7, source="earlier/trial_00003")]
    found = find_growth(study(), trials)
    assert (found.trials, found.crop_passes) == ((0,), (100,))
    assert found.hypervolume == pytest.approx((0.16,))
    assert found.before == pytest.approx(0.1)


@pytest.mark.parametrize("third", [{}, {"flops": "minimize"}], ids=["two", "three"])
def test_the_hypervolume_is_that_of_the_trials_so_far_and_computed_only_where_the_front_grows(
    third: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study(objectives={"clean_accuracy": "maximize", "robust_accuracy": "maximize", **third})
    source = np.random.default_rng(0)
    trials = []
    for number in range(60):
        clean, robust, flops = source.random(3)
        status: Status = "stopped" if number % 9 == 4 else "finished"
        trials.append(record(number, status=status, clean_accuracy=clean, robust_accuracy=robust, flops=flops))
    trials[7] = record(7, clean_accuracy=None)
    trials[20] = replace(trials[20], source="earlier/trial_00003")
    reference = find_front(config, trials).reference
    first, *others = sorted(trials, key=lambda trial: (not trial.source, trial.number))
    fronts = [find_front(config, [first, *others[:n]], reference=reference) for n in range(60)]
    computed: list[int] = []
    monkeypatch.setattr(growth, "hypervolume", lambda *given: computed.append(1) or hypervolume(*given))  # type: ignore[func-returns-value]
    found = find_growth(config, trials)
    assert found.hypervolume == pytest.approx([front.hypervolume for front in fronts[1:]])
    grown = {trial.number for front in fronts for trial in front.members}
    assert len(computed) == len(grown) < 40


def test_a_study_without_a_row_has_not_grown() -> None:
    assert find_growth(study(), [TRIALS[2]]).hypervolume == ()


def test_what_was_spent_is_split_by_how_the_trials_ended_and_adds_up() -> None:
    spent = {one.status: one for one in find_spending(TRIALS)}
    assert list(spent) == ["finished", "stopped", "failed"]
    assert (spent["finished"].trials, spent["finished"].train_seconds, spent["finished"].eval_seconds) == (3, 6, 3)
    assert (spent["stopped"].crop_passes, spent["stopped"].flops) == (100, 10**9)
    assert (spent["failed"].trials, spent["failed"].train_seconds) == (1, 0)

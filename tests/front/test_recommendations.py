from collections.abc import Sequence

from made_by_hand import curve, record, study

from cfamc_ray.front.recommendations import advise, cost_ladder, headline
from cfamc_ray.store.records import TrialRecord

FRONT = [(0.9, 0.1, 100), (0.8, 0.45, 300), (0.3, 0.5, 900), (0.7, 0.4, 200), (0.2, 0.2, 50)]


def trials(values: Sequence[tuple[float, float, float]] = FRONT) -> list[TrialRecord]:
    return [
        record(n, clean_accuracy=clean, robust_accuracy=robust, crop_passes=passes)
        for n, (clean, robust, passes) in enumerate(values)
    ]


def numbers(records: Sequence[TrialRecord]) -> list[int]:
    return [found.number for found in records]


def roles(budget: float | None = None) -> dict[str, int]:
    return {found.role: found.record.number for found in advise(study(), trials(), budget=budget)}


def test_the_best_of_each_objective_and_the_knee_are_recommended() -> None:
    assert roles() == {
        "best clean accuracy": 0,
        "best robust accuracy": 2,
        "the knee: nearest to the best of everything": 1,
    }


def test_a_budget_is_kept_and_the_most_robust_within_it_is_recommended() -> None:
    assert roles(250)["best robust accuracy within 250 crop passes"] == 3
    assert roles(60)["best robust accuracy within 60 crop passes"] == 4
    assert not any("within" in role for role in roles(10))


def test_where_less_is_better_the_lowest_is_best() -> None:
    config = study(objectives={"clean_accuracy": "maximize", "crop_passes": "minimize"})
    found = {advice.role: advice.record.number for advice in advise(config, trials())}
    assert found["lowest crop passes"] == 4


def test_a_front_of_two_has_no_knee_and_no_front_no_advice() -> None:
    assert len(advise(study(), trials(FRONT[:1] + FRONT[2:3]))) == 2
    assert advise(study(), [TrialRecord(0, {})]) == []


def test_the_ladder_has_what_more_cost_buys_and_nothing_that_costs_more_for_less() -> None:
    assert numbers(cost_ladder(study(), trials())) == [4, 3, 1, 2]
    assert numbers(cost_ladder(study(), trials([(0.1, 0.5, 10), (0.1, 0.5, 20), (0.1, 0.4, 30)]))) == [0]
    assert numbers(cost_ladder(study(), trials(), metric="clean_accuracy")) == [4, 0]
    assert cost_ladder(study(), []) == []


def test_robust_accuracy_is_what_matters_most_where_it_is_an_objective() -> None:
    assert headline(study()) == "robust_accuracy"
    assert headline(study(objectives={"flops": "minimize", "clean_accuracy": "maximize"})) == "clean_accuracy"
    assert headline(study(objectives={"flops": "minimize"})) == "flops"


def test_what_is_recommended_is_an_operating_point() -> None:
    config = study()
    trials = [
        curve(0, (0.01, 0.9, 0.1), (0.1, 0.8, 0.45), crop_passes=100),
        curve(1, (0.01, 0.5, 0.3), (0.1, 0.3, 0.5), crop_passes=200),
    ]
    advice = advise(config, trials, budget=150)
    assert [(one.record.number, one.record.l2) for one in advice] == [(0, 0.01), (1, 0.1), (0, 0.1), (0, 0.1)]
    assert [(record.number, record.l2) for record in cost_ladder(config, trials)] == [(0, 0.1), (1, 0.1)]


def test_of_points_within_the_standard_error_of_the_best_the_best_compromise_is_taken() -> None:
    values = [(0.504, 0.10), (0.500, 0.20), (0.480, 0.30)]
    few, many = (
        [
            record(n, clean_accuracy=clean, robust_accuracy=robust, validation_images=images, attacked_images=images)
            for n, (clean, robust) in enumerate(values)
        ]
        for images in (1_000, 100_000)
    )
    # The standard error of 50 % is 1.6 points of 1,000 images, and 0.16 points of 100,000.
    assert [advise(study(), trials)[0].record.number for trials in (few, many)] == [1, 0]

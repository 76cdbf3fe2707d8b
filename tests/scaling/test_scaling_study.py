"""Scaling laws: what was put in comes out, what is not decided is not claimed, and missing trials cost no law."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.scaling.allocation import allocation_curves, best_allocations, doubling, doublings
from cfamc_ray.scaling.laws import Fit, Law, fit, fit_law, forms, held_out
from cfamc_ray.scaling.study import conclusions, fit_learning, fits_tree
from cfamc_ray.scaling.trial_table import VIEWS, TrialTable, alike, factors, learning_table, trial_table
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialRecord

CONFIG = ScalingConfig.model_validate(
    {
        "name": "made",
        "trial": {
            "data": {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50},
            "pretraining": {"batch_images": 50, "replays": 1},
            "crops": {"views": 4},
            "encoder": {"width": 8, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 8},
        },
        "learning": {
            "crop_passes": [2400, 4800, 9600, 19200],
            "split": {"crops.views": [2, 4, 8], "pretraining.replays": [1, 3]},
            "vary": {"data.pretrain_images": [200], "encoder.width": [4]},
            "seeds": [3, 1],
        },
    }
)
TRUE = {"crops.views": (0.2, 0.8), "pretraining.epochs": (0.15, 0.5)}
"""Amount and exponent of each factor; the floor is 0.3."""
ALONE = [(key,) for key in TRUE]
TRUE_LAW = Law(
    ALONE, 0.3, (0.2, 0.15), dict.fromkeys(TRUE, 4.0), {key: exponent for key, (_, exponent) in TRUE.items()}
)
SPLIT = CONFIG.learning.split
SHARING = [*SPLIT, "pretraining.epochs"]


def error_of(point: Mapping[str, Any]) -> float:
    return 0.3 + sum(float(amount * (point[key] / 4) ** -exponent) for key, (amount, exponent) in TRUE.items())


def number_in(point: Mapping[str, Any], key: str) -> int:
    return int(point[key])


def half_as_long(point: Mapping[str, Any]) -> dict[str, Any]:
    """What the budget before the largest trained of the same configuration."""
    return {**point, "pretraining.epochs": point["pretraining.epochs"] / 2}


def trained(noise: float = 0.0, seed: int = 0) -> list[TrialRecord]:
    """All trials of the design, with errors as the true law has them."""
    draw = np.random.default_rng(seed)
    records = []
    for number, point in enumerate(CONFIG.learning_points):
        accuracy = 1 - error_of(point) + noise * draw.standard_normal()
        passes = CONFIG.trial.with_values(dict(point)).crop_passes
        row = {"epoch": 1, "done": True, "clean_accuracy": accuracy, "robust_accuracy": None, "crop_passes": passes}
        records.append(TrialRecord(number, point, [row], "finished"))
    return records


def test_a_law_of_several_factors_is_recovered() -> None:
    found = trial_table(CONFIG, trained())
    law = fit_law(ALONE, found.sizes(list(TRUE)), 1 - found.accuracies["clean_accuracy"])
    assert law.floor == pytest.approx(0.3, abs=2e-3)
    assert law.exponents == pytest.approx({"crops.views": 0.8, "pretraining.epochs": 0.5}, rel=0.02)
    predicted = law.predict(np.array([[4.0, 4.0], [8.0, 16.0]]))
    assert predicted == pytest.approx([0.65, error_of({"crops.views": 8, "pretraining.epochs": 16})], abs=1e-3)


def test_a_law_of_crop_passes_is_recovered_and_its_floor_is_never_negative() -> None:
    passes = np.array([1e3, 2e3, 4e3, 8e3, 1.6e4])[:, None]
    law = fit_law([("crop_passes",)], passes, 0.1 + 2 * passes[:, 0] ** -0.3)
    assert law.floor == pytest.approx(0.1, abs=1e-3)
    assert law.exponents["crop_passes"] == pytest.approx(0.3, rel=1e-2)
    straight = fit_law([("crop_passes",)], passes, 0.9 - 1e-5 * passes[:, 0])
    assert straight.floor >= 0


def test_a_pair_of_factors_is_recovered_and_predicts_what_single_ones_miss() -> None:
    def error_of_pair(point: Mapping[str, Any]) -> float:
        views, replays, epochs = (point[key] for key in SHARING)
        return float(0.3 + 0.2 * (views / 4) ** -0.8 * replays**-0.5 + 0.1 * (epochs / 4) ** -0.5)

    passes = [CONFIG.trial.with_values(dict(point)).crop_passes for point in CONFIG.learning_points]
    rows = [
        {"clean_accuracy": 1 - error_of_pair(point), "crop_passes": spent}
        for point, spent in zip(CONFIG.learning_points, passes, strict=True)
    ]
    points = CONFIG.learning_points
    found = trial_table(CONFIG, [TrialRecord(n, point, [rows[n]], "finished") for n, point in enumerate(points)])
    terms = forms(found, SPLIT)["interactions"]
    law = fit_law(terms, found.sizes(law_keys := factors(found)), 1 - found.accuracies["clean_accuracy"])
    new = {"crops.views": 6, "pretraining.replays": 2, "pretraining.epochs": 10}
    sizes = [float(new.get(key, CONFIG.trial.value_of(key))) for key in law_keys]
    assert law.predict(np.array([sizes])) == pytest.approx([error_of_pair(new)], abs=1e-3)
    judged = held_out(found, "clean_accuracy", SPLIT)
    assert judged is not None
    assert judged.best == "interactions"
    assert judged.mean("interactions") < 0.3 * judged.mean("additive")
    assert next(one for one in fit_learning(CONFIG, found)).allocations


def test_pairs_are_of_factors_that_share_a_budget() -> None:
    found = trial_table(CONFIG, trained())
    every = forms(found, SPLIT)
    assert every["total"] == [("crop_passes",)]
    assert every["additive"] == [(key,) for key in factors(found)]
    pairs = {frozenset(term) for term in every["interactions"] if len(term) == 2}
    assert pairs == {frozenset(pair) for pair in combinations(SHARING, 2)}
    assert len(every["interactions"]) == len(every["additive"]) + 3


def test_more_of_a_factor_may_make_worse() -> None:
    replays = np.array([1.0, 2.0, 4.0, 8.0])[:, None]
    law = fit_law([("pretraining.replays",)], replays, 0.5 + 0.02 * np.log2(replays[:, 0]))
    assert law.amounts[0] < 0
    assert law.predict(replays) == pytest.approx(0.5 + 0.02 * np.log2(replays[:, 0]), abs=0.01)


def test_a_law_needs_as_many_trials_as_it_has_free_numbers() -> None:
    with pytest.raises(ValueError, match="3 free parameters"):
        fit_law([("crop_passes",), ("encoder.width",)], np.array([[1.0, 8.0], [2.0, 16.0]]), np.array([0.5, 0.4]))


def test_one_size_says_nothing_of_others() -> None:
    with pytest.raises(ValueError, match="crop_passes has a single size"):
        fit_law([("crop_passes",)], np.full((5, 1), 1000.0), np.linspace(0.4, 0.5, 5))


def test_two_sizes_leave_the_curvature_open() -> None:
    sizes = np.array([[1.0], [4.0]] * 3)
    law = fit_law([("encoder.width",)], sizes, np.array([0.5, 0.4] * 3))
    assert (law.exponents, law.assumed) == ({"encoder.width": 0.5}, ("encoder.width",))
    assert law.predict(sizes) == pytest.approx([0.5, 0.4] * 3)


def test_factors_are_what_varies_and_has_numbers() -> None:
    assert set(factors(trial_table(CONFIG, trained()))) == {
        *("crops.views", "pretraining.replays", "pretraining.epochs", "data.pretrain_images", "encoder.width")
    }
    assert factors(TrialTable([], np.array([]), np.array([]), {})) == []
    same = [{"crops.views": 2, "encoder.norm": "batch", "seed": n} for n in (0, 1)]
    assert factors(TrialTable(same, np.ones(2), np.ones(2), {})) == []


def test_intervals_hold_the_truth_nearly_as_often_as_they_say_and_are_wider_with_more_noise() -> None:
    held, widths = [], []
    for seed in range(10):
        for noise in (0.002, 0.02):
            found = trial_table(CONFIG, trained(noise, seed))
            fitted = fit(found, "clean_accuracy", ALONE, resamples=50)
            low, high = fitted.interval(found.sizes(list(TRUE)))
            truth = np.array([error_of(point) for point in found.points])
            held.append(np.mean((low <= truth) & (truth <= high)))
            widths.append(float(np.mean(high - low)))
            low_exponent, high_exponent = fitted.exponent_interval("crops.views")
            assert low_exponent <= fitted.law.exponents["crops.views"] <= high_exponent
    assert 0.8 < np.mean(held) <= 1
    assert np.mean(widths[1::2]) > 3 * np.mean(widths[::2])


def test_the_same_draw_gives_the_same_fit() -> None:
    found = trial_table(CONFIG, trained(0.01))
    one, other = (fit(found, "clean_accuracy", [("crop_passes",)], resamples=5, seed=3) for _ in range(2))
    assert one == other


def test_the_largest_budget_is_predicted_better_by_the_true_law_than_by_none() -> None:
    found = held_out(trial_table(CONFIG, trained(0.002)), "clean_accuracy", SPLIT)
    assert found is not None
    assert found.trials == 8
    assert found.mean("additive") < 0.01
    assert found.mean("additive") < found.mean("unchanged")
    assert found.helps
    assert set(found.errors) == {"total", "additive", "interactions", "unchanged"}


def test_what_is_unchanged_is_the_mean_of_the_same_configuration_at_the_budget_before() -> None:
    records = trained()
    found = held_out(trial_table(CONFIG, records), "clean_accuracy", SPLIT)
    assert found is not None
    largest = [r for r in records if r.value("crop_passes") > 19000]
    before = [error_of(half_as_long(record.point)) for record in largest]
    gaps = [abs(guess - error_of(record.point)) for guess, record in zip(before, largest, strict=True)]
    assert sorted(found.errors["unchanged"]) == pytest.approx(sorted(gaps), abs=1e-9)


def test_a_law_that_misses_more_than_no_change_is_called_so() -> None:
    def said(records: list[TrialRecord]) -> str:
        return " ".join(conclusions(fit_learning(CONFIG, trial_table(CONFIG, records))))

    stalled = [
        replace(record, rows=[{**record.rows[-1], "clean_accuracy": 1 - error_of(half_as_long(record.point))}])
        if record.value("crop_passes") > 19000
        else record
        for record in trained(0.002)
    ]
    assert "do not trust any law" not in said(trained(0.002))
    assert "do not trust any law beyond the measured budgets" in said(stalled)


@pytest.mark.parametrize("budgets", [0, 1, 2])
def test_two_budgets_predict_nothing(budgets: int) -> None:
    few = [record for record in trained() if record.value("crop_passes") <= [0, 2400, 4800][budgets] * 1.1]
    assert held_out(trial_table(CONFIG, few), "clean_accuracy", SPLIT) is None
    assert held_out(trial_table(CONFIG, trained()), "robust_accuracy", SPLIT) is None


def test_a_doubling_is_measured_within_blocks_of_equal_passes() -> None:
    records = [
        TrialRecord(number, point, [{"done": True, "crop_passes": 1.0, "clean_accuracy": accuracy}], "finished")
        for number, point in enumerate(CONFIG.learning_points)
        for accuracy in [0.3 + 0.02 * np.log2(number_in(point, VIEWS)) + 0.1 * number_in(point, "seed")]
    ]
    effect = doubling(trial_table(CONFIG, records), "clean_accuracy")
    assert effect is not None
    assert (effect.per_doubling, effect.low, effect.high) == pytest.approx((0.02, 0.02, 0.02))
    assert effect.significant
    assert effect.blocks >= 8
    assert doubling(trial_table(CONFIG, records[:1]), "clean_accuracy") is None


def test_what_a_doubling_changes_with_each_other_setting_that_is_split() -> None:
    effect = {1: -0.03, 3: 0.01}
    records = [
        TrialRecord(number, point, [{"crop_passes": 1.0, "robust_accuracy": accuracy}], "finished")
        for number, point in enumerate(CONFIG.learning_points)
        for accuracy in [0.3 + effect[number_in(point, "pretraining.replays")] * math.log2(number_in(point, VIEWS))]
    ]
    found = trial_table(CONFIG, records)
    every, once, thrice = doublings(CONFIG, found, "robust_accuracy")
    assert (every.among, once.among, thrice.among) == ({}, {"pretraining.replays": 1}, {"pretraining.replays": 3})
    assert (once.per_doubling, thrice.per_doubling) == pytest.approx((-0.03, 0.01))
    assert once.per_doubling < every.per_doubling < thrice.per_doubling
    assert every.blocks == once.blocks + thrice.blocks
    said = " ".join(conclusions(fit_learning(CONFIG, found)))
    assert "For replays 1 alone: by -3.0 points (95 % interval -3.0 to -3.0" in said
    alone = CONFIG.model_copy(
        update={"learning": CONFIG.learning.model_copy(update={"split": {"crops.views": (2, 4)}})}
    )
    assert [one.among for one in doublings(alone, found, "robust_accuracy")] == [{}]
    assert doublings(CONFIG, found, "clean_accuracy") == []


def test_where_noise_is_all_there_is_a_doubling_is_undecided() -> None:
    undecided = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        rows = [{"crop_passes": 1.0, "clean_accuracy": draw.normal(0.5, 0.01)} for _ in CONFIG.learning_points]
        points = CONFIG.learning_points
        records = [TrialRecord(n, point, [rows[n]], "finished") for n, point in enumerate(points)]
        effect = doubling(trial_table(CONFIG, records), "clean_accuracy")
        assert effect is not None
        undecided += not effect.significant
    assert undecided >= 16


def test_the_best_split_is_found_among_whole_numbers_that_spend_the_budget() -> None:
    found = trial_table(CONFIG, trained())
    law = TRUE_LAW
    splits = {split.budget: split for split in best_allocations(CONFIG, found, "clean_accuracy", Fit(law, [law]))}
    assert set(splits) == {2400, 4800, 9600, 19200}
    best = splits[19200.0]
    trial = CONFIG.trial.with_values(dict(best.predicted))
    assert trial.crop_passes == pytest.approx(19200, rel=0.02)
    every = [
        error_of({"crops.views": views, "pretraining.epochs": 192 // (views * replays)})
        for views in range(2, 9)
        for replays in (1, 2, 3)
        if 192 % (views * replays) == 0
    ]
    assert best.predicted_accuracy == pytest.approx(1 - min(every), abs=1e-9)
    assert best.support == 1
    assert best.measured_accuracy == pytest.approx(max(found.accuracies["clean_accuracy"][found.budgets == 19200]))


def test_predicted_curves_follow_the_law_through_what_was_measured_without_noise() -> None:
    found = trial_table(CONFIG, trained())
    law = TRUE_LAW
    for one in allocation_curves(CONFIG, found, "clean_accuracy", Fit(law, [])):
        assert set(one.held) == {"pretraining.replays"}
        assert one.predicted.keys() == one.curves.keys()
        for budget, means in one.curves.items():
            line = one.predicted[budget]
            assert [min(line), max(line)] == pytest.approx([min(means), max(means)])
            for views, accuracy in means.items():
                nearest = min(line, key=lambda place, views=views: abs(place - views))  # type: ignore[misc]
                assert line[nearest] == pytest.approx(accuracy, abs=5e-3)
    assert all(not one.predicted for one in allocation_curves(CONFIG, found, "clean_accuracy", None))


def replace_accuracies(found: TrialTable, values: Any) -> TrialTable:
    return found._replace(accuracies={**found.accuracies, "clean_accuracy": np.array(values)})


def drawn(split: dict[str, Any], robust: float) -> tuple[ScalingConfig, TrialTable]:
    """Trials of another split, with accuracies of noise alone and one that is always the same."""
    learning = {"crop_passes": [4800, 9600, 19200], "split": split, "seeds": [2]}
    config = ScalingConfig.model_validate(CONFIG.model_dump() | {"learning": learning})
    draw = np.random.default_rng(0)
    records = []
    for number, point in enumerate(config.learning_points):
        passes = config.trial.with_values(dict(point)).crop_passes
        row = {"crop_passes": passes, "clean_accuracy": draw.normal(0.5, 0.02), "robust_accuracy": robust}
        records.append(TrialRecord(number, point, [row], "finished"))
    return config, trial_table(config, records)


def test_a_study_that_does_not_split_the_crops_says_nothing_of_them() -> None:
    config, found = drawn({"pretraining.replays": [1, 2, 3]}, 0.0)
    assert doublings(config, found, "clean_accuracy") == []
    said = conclusions(fit_learning(config, found))
    assert not any("twice the crops" in sentence for sentence in said)
    assert any("best allocation to be replays" in sentence for sentence in said)


def test_a_law_predicts_nothing_of_what_has_no_number() -> None:
    config, found = drawn({"encoder.norm": ["batch", "group"], "crops.views": [2, 4]}, 0.0)
    for one in fit_learning(config, found):
        for split in one.allocations:
            assert set(split.predicted) == {"crops.views", "pretraining.epochs"}
            assert set(split.measured) == {"encoder.norm", "crops.views", "pretraining.epochs"}


def test_trials_that_differ_in_a_name_are_not_compared_by_a_law() -> None:
    config, found = drawn({"encoder.norm": ["group", "batch"], "crops.views": [2, 4]}, 0.0)
    assert {point["encoder.norm"] for point in alike(config, found).points} == {config.trial.encoder.norm} == {"batch"}
    mixed = replace_accuracies(found, [0.9 if point["encoder.norm"] == "group" else 0.5 for point in found.points])
    (one, _) = fit_learning(config, mixed)
    assert one.laws["total"].law.predict(np.array([[9600.0]])) == pytest.approx([0.5])
    other, found = drawn({"encoder.norm": ["group"], "crops.views": [2, 4]}, 0.0)
    assert len(alike(other, found).points) == len(found.points), "the trial's own norm is none of those that are split"


def test_the_best_measured_split_is_of_the_trials_own_width_and_images() -> None:
    found = trial_table(CONFIG, trained())
    others = {key: CONFIG.trial.value_of(key) for key in CONFIG.learning.vary}
    better = [0.0 if others.items() <= point.items() else 0.3 for point in found.points]
    raised = replace_accuracies(found, found.accuracies["clean_accuracy"] + np.array(better))
    for split in best_allocations(CONFIG, raised, "clean_accuracy", Fit(TRUE_LAW, [TRUE_LAW])):
        assert others.items() <= split.measured.items()
        assert split.measured_accuracy < 0.7


def test_an_exponent_that_is_assumed_has_no_interval() -> None:
    every = fit_learning(CONFIG, trial_table(CONFIG, trained(0.01)))
    law = fits_tree(every)["clean_accuracy"]["laws"]["additive"]
    assert set(law["assumed"]) == {"pretraining.replays", "data.pretrain_images", "encoder.width"}
    assert law["exponents"]["pretraining.replays"] == 0.5
    assert set(law["exponent_intervals_95"]) == {"crops.views", "pretraining.epochs"}


def test_where_there_is_one_choice_none_is_recommended() -> None:
    config, found = drawn({"encoder.norm": ["batch", "group"], "crops.views": [4]}, 0.0)
    assert [one.allocations for one in fit_learning(config, found)] == [[], []]


@pytest.mark.parametrize("robust", [0.0, 0.2, 0.7])
def test_what_never_changes_is_not_decided(robust: float) -> None:
    config, found = drawn({"crops.views": [2, 4, 8], "pretraining.replays": [1, 3]}, robust)
    effects = doublings(config, found, "robust_accuracy")
    assert effects
    assert not any(one.significant for one in effects)


def test_the_table_has_every_trial_and_nothing_for_what_is_missing() -> None:
    records = [*trained()[:2], TrialRecord(2, CONFIG.learning_points[2], (), "failed", "diverged")]
    table = learning_table(CONFIG, records)
    assert [list(row) for row in table.rows] == [table.names] * 3
    assert [row["status"] for row in table.rows] == ["finished", "finished", "failed"]
    assert [row["budget"] for row in table.rows] == [2400] * 3
    assert table.rows[2]["clean_accuracy"] is None
    assert trial_table(CONFIG, records).points == [record.point for record in records[:2]]


def test_the_learning_part_trains_its_points_and_no_others() -> None:
    config = CONFIG.learning_study
    assert config.search.sampler.listed
    assert list(SearchSpace(config).points()) == CONFIG.learning_points

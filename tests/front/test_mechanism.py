"""Correlations with robustness: those of made studies are known, and intervals hold the truth as often as said."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import row, study
from scipy.stats import spearmanr

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.effects import FEWEST
from cfamc_ray.front.mechanism import (
    ALL,
    SMALL,
    Relation,
    find_relations,
    label_of,
    mechanism_table,
    recorded_values,
)
from cfamc_ray.store.records import TrialRecord

SPACE = {"crops.views": {"int": [2, 40]}, "encoder.norm": {"choice": ["batch", "group"]}, "seed": {"int": [0, 99]}}
Draw = Callable[[dict[str, Any], np.random.Generator], dict[str, float | None]]


def trials(number: int, draw: Draw, *, seed: int = 0, seeds: int = 1) -> list[TrialRecord]:
    """Trials at random points, each with several seeds, whose metrics are drawn given the point."""
    source, records = np.random.default_rng(seed), list[TrialRecord]()
    while len(records) < number:
        views, norm = int(source.integers(2, 41)), str(source.choice(["batch", "group"]))
        for each in range(seeds):
            point = {"crops.views": views, "encoder.norm": norm, "seed": each}
            metrics = row(1, done=True, **draw(point, source))
            records.append(TrialRecord(len(records), point, [metrics], "finished"))
    return records[:number]


def relations(records: Sequence[TrialRecord], config: StudyConfig | None = None) -> list[Relation]:
    return find_relations([(config or study(space=SPACE), records)], resamples=300)


def relation(found: Sequence[Relation], measured: str, held: str, target: str = "robust_accuracy") -> Relation:
    (one,) = [r for r in found if (r.measured, r.held, r.target) == (measured, held, target)]
    return one


def independent(_: dict[str, Any], source: np.random.Generator) -> dict[str, float | None]:
    return {"invariance": source.normal(), "robust_accuracy": source.uniform(0, 0.5)}


def confounded(point: dict[str, Any], source: np.random.Generator) -> dict[str, float | None]:
    """Views raise both; beyond that they are independent."""
    views = point["crops.views"] / 40
    return {
        "invariance": views + 0.1 * source.normal(),
        "robust_accuracy": 0.2 * views + (0.1 if point["encoder.norm"] == "group" else 0) + 0.02 * source.normal(),
    }


def test_with_nothing_held_it_is_spearmans_correlation_of_both_targets() -> None:
    records = trials(25, independent)
    found = relations(records)
    x = [record.value("invariance") for record in records]
    robust = [record.value("robust_accuracy") for record in records]
    one = relation(found, "invariance", "nothing")
    assert one.correlation == pytest.approx(spearmanr(x, robust).statistic)
    gap = relation(found, "invariance", "nothing", "robust_gap")
    assert gap.correlation == pytest.approx(-one.correlation), "clean accuracy is the same in all trials"
    assert one.values == tuple(zip(x, robust, strict=True))


def test_a_monotone_relation_has_correlation_one_and_predicts() -> None:
    records = trials(12, lambda point, source: {"loss": (x := source.uniform()), "robust_accuracy": x**3})
    one = relation(relations(records), "loss", "nothing")
    assert one.correlation == pytest.approx(1)
    assert 0.9 < one.interval[0] <= one.interval[1] <= 1
    assert one.decision == "predicts"


def test_holding_the_keys_fixed_removes_a_confounder() -> None:
    found = relations(trials(150, confounded))
    raw, held = (relation(found, "invariance", name) for name in ("nothing", "keys"))
    assert raw.correlation > 0.5
    assert raw.decision == "predicts"
    assert abs(held.correlation) < 0.15
    assert held.decision == "does not"


def test_holding_configurations_fixed_also_removes_a_confounder_that_is_no_line() -> None:
    def bent(point: dict[str, Any], source: np.random.Generator) -> dict[str, float | None]:
        bend = abs(point["crops.views"] - 21) / 20
        return {"loss": bend + 0.05 * source.normal(), "robust_accuracy": 0.3 * bend + 0.01 * source.normal()}

    found = relations(trials(150, bent, seeds=3))
    assert relation(found, "loss", "keys").correlation > 0.8
    assert relation(found, "loss", "configuration").decision == "does not"


def test_what_seeds_move_together_is_seen_within_configurations() -> None:
    def hidden(point: dict[str, Any], source: np.random.Generator) -> dict[str, float | None]:
        luck = source.normal()
        views = point["crops.views"]
        return {"loss": 10 * views + luck, "robust_accuracy": 0.5 - 0.01 * views + 0.001 * luck}

    found = relations(trials(30, hidden, seeds=3))
    assert relation(found, "loss", "nothing").correlation < -0.9
    within = relation(found, "loss", "configuration")
    assert within.correlation == pytest.approx(1)
    assert within.decision == "predicts"
    assert relation(found, "loss", "keys").correlation == pytest.approx(1)


def test_single_configurations_do_not_count_within_configurations() -> None:
    found = relations(trials(31, independent, seeds=3))
    assert len(relation(found, "invariance", "configuration").values) == 30
    alone = relations(trials(12, independent))
    assert "configuration" not in {one.held for one in alone if len(one.values) == 12}


def test_a_value_that_the_keys_determine_has_no_correlation_of_its_own() -> None:
    records = trials(
        30, lambda point, source: {"loss": 3.3 * point["crops.views"], "robust_accuracy": source.uniform()}
    )
    one = relation(relations(records), "loss", "keys")
    assert math.isnan(one.correlation)
    assert one.decision == "too few trials, or no variation"


@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("number", [14, 40])
def test_intervals_hold_the_truth_about_as_often_as_said(rho: float, number: int) -> None:
    """The truth is that of a large normal sample: Spearman's is 6 / π arcsin(ρ / 2)."""
    truth = 6 / math.pi * math.asin(rho / 2)

    def draw(point: dict[str, Any], source: np.random.Generator) -> dict[str, float | None]:
        x, y = source.normal(size=2)
        views = point["crops.views"] / 10
        return {"invariance": x + views, "robust_accuracy": rho * x + math.sqrt(1 - rho**2) * y + views}

    held = 0
    for seed in range(120):
        low, high = relation(relations(trials(number, draw, seed=seed)), "invariance", "keys").interval
        held += low <= truth <= high
    assert 0.87 <= held / 120 <= 0.99


@given(st.integers(0, 2**16))
def test_an_interval_holds_its_correlation_and_is_the_same_again(seed: int) -> None:
    records = trials(20, independent, seed=seed)
    first, again = ([one for one in relations(records) if one.held != "configuration"] for _ in range(2))
    assert first == again
    for one in first:
        assert -1 <= one.interval[0] <= one.correlation <= one.interval[1] <= 1


@pytest.mark.parametrize(
    ("interval", "decision"),
    [
        ((0.1, 0.9), "predicts"),
        ((-0.9, -0.01), "predicts"),
        ((-0.29, 0.29), "does not"),
        ((-SMALL, 0.1), "undecided"),
        ((-0.2, 0.5), "undecided"),
        ((math.nan, math.nan), "too few trials, or no variation"),
    ],
)
def test_the_decision_is_read_from_the_interval(interval: tuple[float, float], decision: str) -> None:
    assert Relation("s", "loss", "robust_gap", "nothing", (), 9, 0.0, interval).decision == decision


def test_a_column_that_is_missing_was_not_measured() -> None:
    def some(_: dict[str, Any], source: np.random.Generator) -> dict[str, float | None]:
        terms = {"alignment": source.normal()} if source.random() < 0.5 else {"coding_rate": None}
        return {"robust_accuracy": source.uniform(), **terms}

    records = trials(40, some)
    found = relations(records)
    assert {one.measured for one in found} == {"alignment"}
    counted = sum("alignment" in record.rows[-1] for record in records)
    assert 0 < len(relation(found, "alignment", "nothing").values) == counted < 40
    assert relations([]) == []


def repeated(configurations: int, seeds: int) -> list[TrialRecord]:
    """Configurations whose values hardly depend on the seed, each with several seeds."""
    source, records = np.random.default_rng(3), list[TrialRecord]()
    for views in range(2, 2 + configurations):
        loss, robust = source.normal(size=2)
        for each in range(seeds):
            metrics = row(1, done=True, loss=loss + 1e-6 * (each % 2), robust_accuracy=robust + 1e-6 * each)
            point = {"crops.views": views, "encoder.norm": "batch", "seed": each}
            records.append(TrialRecord(len(records), point, [metrics], "finished"))
    return records


def test_seeds_of_a_configuration_are_no_independent_trials() -> None:
    once, five = (relation(relations(repeated(12, seeds)), "loss", "nothing") for seeds in (1, 5))
    assert (once.configurations, len(once.values)) == (12, 12)
    assert (five.configurations, len(five.values)) == (12, 60)
    assert five.correlation == pytest.approx(once.correlation, abs=0.02)
    assert five.interval == pytest.approx(once.interval, abs=0.1), "and not half as wide"
    few = relations(repeated(FEWEST - 1, 5))
    assert math.isnan(relation(few, "loss", "nothing").correlation)
    assert math.isfinite(relation(few, "loss", "configuration").correlation)


@pytest.mark.parametrize(("number", "known"), [(FEWEST - 1, False), (FEWEST, True)])
def test_too_few_trials_say_nothing(number: int, known: bool) -> None:
    found = relations(trials(number, independent))
    one = relation(found, "invariance", "nothing")
    assert math.isfinite(one.correlation) == known
    assert math.isnan(relation(found, "invariance", "keys").correlation), "the keys take two degrees of freedom"
    (shown, *_) = [each for each in mechanism_table(found).rows if each["held"] == "nothing"]
    assert (shown["low"] is not None) == known
    assert shown["trials"] == number


def test_unfinished_trials_and_forks_do_not_count() -> None:
    records = trials(20, independent)
    stopped = TrialRecord(90, records[0].point, records[0].rows, "stopped")
    fork = TrialRecord(91, {**records[0].point, "trunk.epochs": 1}, records[0].rows, "finished")
    assert relations([*records, stopped, fork]) == relations(records)


def test_studies_together_compare_within_each_study() -> None:
    """Study B has a larger loss and robustness throughout, which is no relation between the two."""
    one = trials(40, lambda point, source: {"loss": source.uniform(), "robust_accuracy": 0.1 * source.uniform()})
    other = trials(
        40, lambda p, source: {"loss": 5 + source.uniform(), "robust_accuracy": 0.4 + 0.1 * source.uniform()}, seed=1
    )
    first, second = study(space=SPACE, name="first"), study(space=SPACE, name="second")
    found = find_relations([(first, one), (second, other)], resamples=300)
    assert list(dict.fromkeys(each.study for each in found)) == ["first", "second", ALL]
    (together,) = [r for r in found if (r.study, r.held, r.target) == (ALL, "nothing", "robust_accuracy")]
    assert len(together.values) == 80
    assert abs(together.correlation) < 0.25
    pooled = spearmanr(*zip(*together.values, strict=True)).statistic
    assert pooled > 0.6


def test_a_trial_that_a_warm_start_copied_counts_once() -> None:
    records = trials(20, independent)
    copies = [TrialRecord(r.number, r.point, r.rows, "finished", source=f"first/{r.trial_id}") for r in records]
    first, second = study(space=SPACE, name="first"), study(space=SPACE, name="second")
    found = find_relations([(first, records), (second, copies)], resamples=100)
    assert {len(one.values) for one in found if one.study == ALL} == {20}
    alone = find_relations([(second, copies)], resamples=100)
    assert {len(one.values) for one in alone} == {20}


def test_everything_recorded_has_a_label() -> None:
    assert {"loss", "invariance", "coding_rate", "alignment", "effective_rank", "local_lipschitz"} <= set(
        recorded_values()
    )
    assert label_of("coding_rate") == "coding rate"
    assert label_of("robust_gap") == "robust gap"

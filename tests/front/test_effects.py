import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import row, study

from cfamc_ray.front.effects import FEWEST, Effect, effects_table, find_effects
from cfamc_ray.store.records import TrialRecord

SPACE = {
    "crops.views": {"int": [2, 32], "log": True},
    "pretraining.epochs": {"int": [1, 5]},
    "encoder.norm": {"choice": ["batch", "group"]},
    "pretraining.replays": 3,
}


def trials(number: int, robust: Callable[[dict[str, Any]], float], seed: int = 0) -> list[TrialRecord]:
    """At random points, with a robust accuracy that is a function of the point."""
    source = random.Random(seed)  # noqa: S311
    records = []
    for n in range(number):
        point = {
            "crops.views": 2 ** source.randint(1, 5),
            "pretraining.epochs": source.randint(1, 5),
            "encoder.norm": source.choice(["batch", "group"]),
            "pretraining.replays": 3,
        }
        metrics = row(1, done=True, robust_accuracy=robust(point))
        records.append(TrialRecord(n, point, [metrics], "finished"))
    return records


def effect(effects: list[Effect], key: str, metric: str = "robust_accuracy") -> Effect:
    (found,) = [one for one in effects if (one.key, one.metric) == (key, metric)]
    return found


def linear(point: dict[str, Any]) -> float:
    """0.2 from 2 to 32 views, -0.1 from 1 to 5 epochs, 0.05 for group norm."""
    value: float = 0.3 + 0.05 * math.log2(point["crops.views"]) - 0.025 * point["pretraining.epochs"]
    return value + (0.05 if point["encoder.norm"] == "group" else 0.0)


def test_slopes_are_those_that_made_the_values_each_with_the_other_keys_held() -> None:
    config = study(space=SPACE)
    found = find_effects(config, trials(20, linear))
    views, epochs = (effect(found, key) for key in ("crops.views", "pretraining.epochs"))
    assert views.slope == pytest.approx(0.2)
    assert epochs.slope == pytest.approx(-0.1)
    assert views.interval == pytest.approx((0.2, 0.2))
    assert views.significant
    assert math.isnan(effect(found, "encoder.norm").slope), "names have no order"


def test_every_searched_key_and_objective_has_an_effect_and_constants_have_none() -> None:
    config = study(space=SPACE)
    found = find_effects(config, trials(20, linear))
    assert {(one.metric, one.key) for one in found} == {
        (metric, key) for metric in config.objectives for key in SPACE if key != "pretraining.replays"
    }


def test_the_key_that_decides_is_the_most_important_one() -> None:
    config = study(space=SPACE)
    found = find_effects(config, trials(40, lambda point: point["pretraining.epochs"] / 10))
    shares = {key: effect(found, key).importance for key in ("crops.views", "pretraining.epochs", "encoder.norm")}
    assert max(shares, key=lambda key: shares[key]) == "pretraining.epochs"
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["pretraining.epochs"] > 0.6


@given(st.integers(0, 2**16))
def test_an_interval_holds_the_slope_and_widens_with_noise(seed: int) -> None:
    config = study(space=SPACE)
    noise = random.Random(seed)  # noqa: S311

    def effects(size: float) -> list[Effect]:
        return find_effects(config, trials(12, lambda point: linear(point) + noise.gauss(0, size), seed))

    calm, wild = effects(0.001), effects(0.5)
    for key in ("crops.views", "pretraining.epochs"):
        before, after = effect(calm, key), effect(wild, key)
        assert before.interval[0] < before.slope < before.interval[1]
        assert before.interval[1] - before.interval[0] < after.interval[1] - after.interval[0]


def test_a_constant_objective_has_no_importance_and_a_slope_of_zero() -> None:
    config = study(space=SPACE)
    views = effect(find_effects(config, trials(12, lambda _: 0.25)), "crops.views")
    assert math.isnan(views.importance)
    assert views.slope == pytest.approx(0)
    assert not views.significant


def test_too_few_trials_decide_nothing_but_show_what_they_are() -> None:
    config = study(space=SPACE)
    few = trials(3, linear, seed=1)
    found = find_effects(config, few)
    assert all(math.isnan(one.importance) and math.isnan(one.slope) for one in found)
    assert effect(found, "crops.views").settings == tuple(record.point["crops.views"] for record in few)
    assert find_effects(config, []) == []
    assert FEWEST > 3


def test_keys_that_always_move_together_are_not_told_apart() -> None:
    config = study(space={"crops.views": {"int": [2, 6]}, "pretraining.epochs": {"int": [2, 6]}})
    points = [{"crops.views": 2 + n % 5, "pretraining.epochs": 2 + n % 5} for n in range(10)]
    records = [TrialRecord(n, point, [row(1, robust_accuracy=n)], "finished") for n, point in enumerate(points)]
    assert all(math.isnan(one.slope) for one in find_effects(config, records))


def test_trials_that_did_not_finish_or_miss_the_metric_are_left_out() -> None:
    config = study(space=SPACE)
    good = trials(10, linear)
    bad = [
        TrialRecord(90, good[0].point, [row(1, robust_accuracy=9.0)], "stopped"),
        TrialRecord(91, good[0].point, [row(1, robust_accuracy=None, clean_accuracy=None)], "finished"),
        TrialRecord(92, good[0].point, [], "failed"),
    ]
    assert repr(find_effects(config, [*good, *bad])) == repr(find_effects(config, good)), "NaN is not equal to itself"


def test_a_trend_goes_through_the_means_on_the_keys_own_scale() -> None:
    config = study(space=SPACE)
    views = effect(find_effects(config, trials(20, linear)), "crops.views")
    assert (views.ends, views.log) == ((2, 32), True)
    low, high = views.trend
    assert high - low == pytest.approx(views.slope)
    mean = sum(math.log2(float(str(setting))) - 1 for setting in views.settings) / 4 / len(views.settings)
    assert low + (high - low) * mean == pytest.approx(sum(views.results) / len(views.results))


def test_a_key_without_an_order_has_no_ends() -> None:
    norm = effect(find_effects(study(space=SPACE), trials(20, linear)), "encoder.norm")
    assert all(map(math.isnan, (*norm.ends, *norm.trend, *norm.interval)))


def test_a_key_of_a_component_has_its_effect_among_the_trials_with_this_component() -> None:
    config = study(
        space={
            "loss.name": {"choice": ["emp_ssl", "nt_xent"]},
            "loss.temperature": {"float": [0.1, 1.0]},
            "optimizer.lr": {"float": [0.1, 0.3]},
        },
        trial={"crops": {"views": 2}},
    )
    source = random.Random(0)  # noqa: S311
    records = []
    for n in range(40):
        loss = source.choice(["emp_ssl", "nt_xent"])
        temperature, rate = source.uniform(0.1, 1.0), source.uniform(0.1, 0.3)
        robust = rate + (0.2 * (temperature - 0.1) / 0.9 if loss == "nt_xent" else 0.15)
        point = {"loss.name": loss, "loss.temperature": temperature, "optimizer.lr": rate}
        records.append(TrialRecord(n, point, [row(1, done=True, robust_accuracy=robust)], "finished"))
    found = find_effects(config, records, {"robust_accuracy": "maximize"})
    assert [one.key for one in found] == list(config.space)
    conditional, of_all = effect(found, "loss.temperature"), effect(found, "optimizer.lr")
    assert conditional.slope == pytest.approx(0.2)
    assert len(conditional.settings) == sum(r.point["loss.name"] == "nt_xent" for r in records) < 40
    assert len(of_all.settings) == 40
    assert effects_table(found).rows[0]["change"] is None, "a name has no low and no high end"

"""The race of searches: its table is whole, its clock is fair, and its figures follow from its runs."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.search_efficiency import (
    SEARCHES,
    _left_out,
    _ranks,
    config_of,
    curves,
    simulate,
    summarise,
    truth,
    volume,
)
from benchmarks.search_table import SEEDS, point_key, read_table, table_study
from cfamc_ray.space.search_space import SearchSpace


def test_the_table_holds_every_point_with_every_seed_to_its_last_epoch() -> None:
    study, table = table_study(), read_table()
    points = list(SearchSpace(study).points())
    assert len(points) >= 96
    assert set(table) == {(seed, point_key(point)) for seed in SEEDS for point in points}
    for point, seed in itertools.product(points, SEEDS):
        rows, trial = table[seed, point_key(point)], study.trial_at(point)
        assert [row["epoch"] for row in rows] == list(range(1, trial.pretraining.epochs + 1))
        assert rows[-1]["crop_passes"] == trial.crop_passes <= 32_000


def test_seeds_differ_and_the_truth_is_their_mean() -> None:
    key = point_key(next(iter(SearchSpace(table_study()).points())))
    ends = [curves(seed)[key][-1]["robust_accuracy"] for seed in SEEDS]
    assert ends[0] != ends[1]
    assert truth()[key][1] == pytest.approx(sum(ends) / 2)


def test_the_whole_table_has_the_largest_volume_and_none_has_no_volume() -> None:
    keys = list(truth())
    assert 0 == volume([]) < volume(keys[:5]) <= volume(keys[:50]) <= volume(keys)


@pytest.mark.parametrize("name", ["random", "default"])
def test_a_simulated_search_pays_for_every_epoch_it_sees(name: str) -> None:
    table = curves(0)
    *_, records = itertools.islice(simulate(config_of(name, 0), table, lambda record: False), 9)
    ended = [record for record in records if record.ended]
    assert len(ended) == 9
    assert len({point_key(record.point) for record in records}) == len(records)
    for record in ended:
        rows = table[point_key(record.point)]
        assert (record.status == "finished") is (len(record.rows) == len(rows))
        assert record.value("crop_passes") == rows[len(record.rows) - 1]["crop_passes"]


def test_stopped_trials_pay_for_their_epochs_alone() -> None:
    *_, records = itertools.islice(simulate(config_of("random", 0), curves(0), lambda r: len(r.rows) == 1), 5)
    assert all(len(record.rows) == 1 for record in records)
    assert {record.status for record in records} == {"stopped"}


def test_figures_follow_from_the_runs() -> None:
    found = summarise({"default": [1.0, 2.0, 3.0], "random": [4.0, 8.0, 9.0], "asha": [5.0, math.inf, math.inf]})
    assert found["cost_ratio_to_random"] == 0.25
    assert found["medians"] == {"default": 2.0, "random": 8.0, "asha": None}
    assert found["searches"]["asha"]["reached"] == pytest.approx(1 / 3)
    assert found["cost_ratio_to_asha"] == 0.0
    low, high = found["cost_ratio_intervals"]["random"]
    assert 1 / 9 <= low <= 0.25 <= high <= 0.75


def test_what_others_predict_of_a_point_does_not_depend_on_it() -> None:
    source = np.random.default_rng(0)
    places, values = source.random((12, 3)), source.random(12)
    found = _left_out(places, values)
    moved = values + np.where(np.arange(12) == 4, 0.5, 0.0)
    assert abs(_left_out(places, moved)[4] - found[4]) < 0.1
    line = _left_out(places, places[:, 0])
    assert line == pytest.approx(places[:, 0], abs=0.2)
    assert np.corrcoef(line, places[:, 0])[0, 1] > 0.9


def test_ranks_are_the_fronts_that_remain() -> None:
    values = np.array([[3, 1], [1, 3], [2, 2], [1, 1], [0, 0], [2, 1]])
    assert list(_ranks(values, ["maximize", "maximize"])) == [0, 0, 0, 2, 3, 1]


def test_every_baseline_is_another_search_than_the_default() -> None:
    default = config_of("default", 0).search
    assert all(config_of(name, 0).search != default for name in SEARCHES if name != "default")

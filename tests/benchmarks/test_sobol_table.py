"""The points of the table of Sobol points, and that a table can be extended at any time."""

from itertools import islice

import pytest

from benchmarks.sobol_table import cells, key_of, sobol_points, sobol_study


def test_points_meet_the_constraint_take_most_of_the_cap_and_spread_over_it() -> None:
    study = sobol_study(8)
    points = list(islice(sobol_points(study, 0.75), 64))
    passes = [study.trial_at(point).crop_passes for point in points]
    assert 24_000 <= min(passes) <= max(passes) <= 32_000
    assert {point["pretraining.epochs"] for point in points} == set(range(1, 9))
    assert {point["pretraining.replays"] for point in points} == set(range(1, 7))
    radii = sorted(float(point["perturbation.epsilon"] or 0) for point in points)
    assert radii[15] == pytest.approx(2 / 255, rel=0.3), "a quarter of the points lies below a quarter of the log scale"
    assert list(islice(sobol_points(study, 0.75), 64)) == points


def test_all_seeds_of_a_point_follow_each_other() -> None:
    wanted = list(cells(sobol_study(8), points=3, seeds=2, at_cap=0))
    assert [seed for seed, _ in wanted] == [0, 1] * 3
    assert wanted[0][1] == wanted[1][1] != wanted[2][1]


def test_a_cell_is_known_whatever_the_order_of_its_keys() -> None:
    cell = {"width": 8, "seed": 0, "point": {"b": 0.1, "a": 2}, "rows": [{"epoch": 1}]}
    assert key_of(cell) == key_of({"width": 8, "seed": 0, "point": {"a": 2, "b": 0.1}})
    assert key_of(cell) != key_of({**cell, "seed": 1})

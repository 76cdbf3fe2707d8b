import math
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from asking import Point, ask, run, run_on_disk, study_of
from optuna.storages import InMemoryStorage

from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range
from cfamc_ray.config.search import SAMPLERS, Nsga3Config
from cfamc_ray.search.bookkeeping import open_study
from cfamc_ray.search.feasible_sampler import suggest_point
from cfamc_ray.space.encoding import encode
from cfamc_ray.space.search_space import SearchSpace

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

FAST = ("tpe", "nsga2", "nsga3", "random")


def assert_within(value: Any, written: Range) -> None:
    match written:
        case IntRange(bounds=(low, high), step=step):
            assert type(value) is int
            assert low <= value <= high
            assert (value - low) % step == 0
        case FloatRange(bounds=(low, high)):
            assert type(value) is float
            assert low <= value <= high
        case Choice(values=values):
            assert value in values
        case Constant(value=only):
            assert value == only


@pytest.mark.parametrize("sampler", FAST)
def test_points_are_new_within_the_ranges_and_meet_the_constraints(sampler: str) -> None:
    config = study_of(sampler)
    points = run(config, 30)
    for point in points:
        assert list(point) == list(config.space)
        for key, written in config.space.items():
            assert_within(point[key], written)
        assert point["crops.views"] * point["pretraining.replays"] <= 24
        assert point["encoder.norm"] == "group" or point["crops.views"] < 9
    assert len({tuple(point.values()) for point in points}) == 30


@pytest.mark.parametrize("sampler", FAST)
def test_the_seed_alone_decides_the_points(sampler: str) -> None:
    once = run(study_of(sampler), 12)
    assert run(study_of(sampler), 12) == once
    assert run(study_of(sampler, seed=1), 12) != once


def test_samplers_differ_once_they_have_learnt() -> None:
    runs = {sampler: run(study_of(sampler), 12) for sampler in FAST}
    assert all(points[:4] == runs["random"][:4] for points in runs.values())
    assert runs["tpe"] != runs["random"] != runs["nsga2"] != runs["tpe"]


@pytest.mark.parametrize(("sampler", "before"), [("tpe", 6), ("nsga2", 6), ("random", 1)])
def test_a_resumed_study_goes_on_as_if_it_had_not_been_interrupted(sampler: str, before: int, tmp_path: Path) -> None:
    config = study_of(sampler)
    resumed = run_on_disk(config, before, tmp_path) + run_on_disk(config, 9 - before, tmp_path)
    assert resumed == run(config, 9)


@pytest.mark.parametrize("sampler", FAST)
def test_a_finite_space_is_exhausted_before_a_point_repeats(sampler: str) -> None:
    space = {"crops.views": {"int": [2, 4]}, "encoder.norm": {"choice": ["batch", "group"]}}
    config = study_of(sampler, space=space, constraints=["encoder.norm == 'group' or crops.views > 2"])
    points = [tuple(point.values()) for point in run(config, 7)]
    assert set(points[:5]) == {(3, "batch"), (4, "batch"), (2, "group"), (3, "group"), (4, "group")}
    assert set(points[5:]) <= set(points[:5])


@pytest.mark.parametrize("space", [{}, {"crops.views": 4}])
def test_a_space_with_nothing_to_search_repeats_its_one_point(space: Point) -> None:
    assert run(study_of("tpe", space=space, constraints=[]), 3) == [space] * 3


@pytest.mark.slow
def test_the_gaussian_process_asks_too() -> None:
    config = study_of("gp", search={"sampler": "gp", "startup_trials": 2, "seed": 0})
    points = run(config, 3)
    assert all(SearchSpace(config).admits(point) for point in points)
    assert points[:2] == run(study_of("random"), 2)
    assert points[2] not in points[:2]


def test_where_the_gaussian_process_wants_what_is_not_admitted_it_gets_points_near_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = study_of("gp")
    space = SearchSpace(config)
    corner: Point = {"crops.views": 12, "pretraining.replays": 7, "perturbation.epsilon": 0.05, "encoder.norm": "batch"}
    whole: Point = {**corner, "pretraining.epochs": 4}
    assert not space.admits(whole)
    monkeypatch.setattr(optuna.samplers.GPSampler, "sample_relative", lambda *_: dict(corner))

    def distance(point: Point) -> float:
        return math.dist(encode(config.space, whole), encode(config.space, point))

    points = run(config, 9)[5:]  # the fifth fails, so four are finished
    anywhere = sorted(distance(point) for point in run(study_of("random"), 40))
    assert len({tuple(point.values()) for point in points}) == 4
    assert all(space.admits(point) for point in points)
    assert max(map(distance, points)) < anywhere[0]


def test_points_of_trials_that_run_at_once_differ() -> None:
    config = study_of("tpe", space={"crops.views": {"int": [2, 6]}}, constraints=[])
    study = open_study(config, InMemoryStorage())
    assert {point["crops.views"] for _, point in (ask(study, config) for _ in range(5))} == {2, 3, 4, 5, 6}


def test_a_trial_that_goes_on_keeps_its_point() -> None:
    config = study_of("tpe")
    study = open_study(config, InMemoryStorage())
    number, point = ask(study, config)
    again = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    assert suggest_point(again, config.space) == point


@pytest.mark.parametrize(
    ("space", "constraints"),
    [
        (
            {"crops.views": {"int": [2, 8]}, "pretraining.replays": 6},
            ["crops.views * pretraining.replays <= 24"],
        ),
        ({"perturbation.attack": "pgd", "pretraining.replays": {"int": [1, 4]}}, []),
    ],
    ids=["a constraint", "a rule between keys"],
)
def test_constants_of_the_space_count_in_conditions_and_rules(space: Point, constraints: list[str]) -> None:
    config = study_of("random", space=space, constraints=constraints)
    assert all(SearchSpace(config).admits(point) for point in run(config, 4))


def test_nsga3_is_made_without_a_warning() -> None:
    with warnings.catch_warnings(action="error"):
        Nsga3Config().build(seed=0, startup_trials=4)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no sampler 'cmaes'"):
        study_of("cmaes")


@pytest.mark.parametrize("name", sorted({*SAMPLERS.classes} - {"grid", "listed"}))
def test_every_sampler_that_a_space_file_may_name_proposes_points(name: str) -> None:
    config = study_of(name)
    first, second = run(config, 2)
    assert first != second
    assert SearchSpace(config).contains(first)
    assert SearchSpace(config).contains(second)

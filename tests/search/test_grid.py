from itertools import product
from pathlib import Path
from typing import Any

from asking import Point, ask, ended, run, run_on_disk, study_of
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.bookkeeping import open_study, reconcile
from cfamc_ray.search.storage import open_storage
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.begun_and_ended import Status

SPACE = {
    "crops.views": {"int": [2, 10], "step": 4},
    "encoder.norm": {"choice": ["group", "batch"]},
    "pretraining.epochs": 4,
    "perturbation.epsilon": {"choice": ["4/255", "8/255"]},
}
ORDER = [
    {"crops.views": views, "encoder.norm": norm, "pretraining.epochs": 4, "perturbation.epsilon": epsilon}
    for views, norm, epsilon in product((2, 6, 10), ("group", "batch"), (4 / 255, 8 / 255))
    if norm == "group" or views < 9
]


def grid(trials: int = len(ORDER), **given: Any) -> StudyConfig:
    return study_of(
        search={"sampler": "grid"},
        budget={"trials": trials},
        **{"space": SPACE, "constraints": ["encoder.norm == 'group' or crops.views < 9"], **given},
    )


def test_every_point_of_the_product_that_meets_the_conditions_is_tried_once_in_order() -> None:
    assert run(grid(), len(ORDER)) == ORDER


def test_a_resumed_grid_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert [*run_on_disk(grid(3), 3, tmp_path), *run_on_disk(grid(), len(ORDER) - 3, tmp_path)] == ORDER


def test_a_grid_whose_database_was_lost_goes_on_where_it_stopped(tmp_path: Path) -> None:
    config = grid()
    statuses: list[Status] = ["finished", "failed", "running"]
    records = [ended(config, number, ORDER[number], status) for number, status in enumerate(statuses)]
    study = open_study(config, open_storage(tmp_path))
    assert reconcile(study, config, records) == [2]
    assert [ask(study, config) for _ in range(2)] == [(3, ORDER[3]), (4, ORDER[4])]


def test_a_trial_that_was_lost_altogether_costs_its_own_point_alone() -> None:
    config = grid()
    study = open_study(config, InMemoryStorage())
    reconcile(study, config, [ended(config, 2, ORDER[2])])
    assert ask(study, config) == (3, ORDER[3])


def test_a_space_of_constants_is_a_grid_of_one_point() -> None:
    point: Point = {"crops.views": 4, "seed": 3}
    assert run(grid(1, space=point, constraints=[]), 1) == [point]


@given(st.permutations(list(SPACE)))
def test_the_last_key_changes_fastest_whatever_the_order_of_the_keys(keys: list[str]) -> None:
    points = list(SearchSpace(grid(space={key: SPACE[key] for key in keys})).points())
    places = {key: list(dict.fromkeys(point[key] for point in ORDER)) for key in keys}
    ranks = [[places[key].index(point[key]) for key in keys] for point in points]
    assert ranks == sorted(ranks)
    assert sorted(map(repr, ({key: point[key] for key in SPACE} for point in points))) == sorted(map(repr, ORDER))

import random
from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from cfamc_ray.config.study import METRICS, StudyConfig, draw
from cfamc_ray.trial import TrialMetrics


def study(**given: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "study", **given})


def test_every_objective_is_reported_by_a_trial() -> None:
    assert METRICS.keys() <= {field.name for field in fields(TrialMetrics)}


@pytest.mark.parametrize("name", ["a", "A1", "0", "my-study_2.b"])
def test_names_that_make_a_folder_are_taken(name: str) -> None:
    assert study(name=name).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "ä", "a\n", "../a", "_a"])
def test_names_that_make_no_folder_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        study(name=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objectives": {}}, "at least 1"),
        ({"objectives": {"loss": "minimize"}}, "no trial reports 'loss'"),
        ({"objectives": {"flops": "less"}}, "'maximize' or 'minimize'"),
        ({"reference": {"flops": 1e9}}, "flops is not among the objectives clean_accuracy, robust_accuracy"),
        ({"reference": {"clean_accuracy": float("nan")}}, "finite"),
        ({"search": {"startup_trials": 0}}, "greater than or equal to 1"),
        ({"search": {"sampler": "cmaes"}}, "'tpe', 'nsga2', 'nsga3', 'gp', 'random' or 'grid'"),
        ({"budget": {"trials": 0}}, "greater than or equal to 1"),
        ({"resources": {"gpus_per_worker": 2}}, "must not exceed 1, not 2.0: add workers"),
        ({"resources": {"gpus_per_worker": -1}}, "greater than or equal to 0"),
        ({"resources": {"minutes_per_trial": 0}}, "greater than 0"),
        ({"resources": {"workers_per_trial": 3}}, "batch_images 100 cannot be shared evenly by .*workers_per_trial 3"),
        ({"space": {"crops.viws": 4}}, "space.crops.viws: no such key"),
        ({"space": {"crops": 4}}, "space.crops: no such key"),
        ({"space": {"crop_passes": {"int": [1, 4]}}}, "space.crop_passes: no such key"),
        ({"space": {"crops.views": {"int": [1, 4]}}}, r"crops.views: .*greater than or equal to 2 \(it is 1\)"),
        ({"space": {"crops.hue": {"float": [0.1, 0.6]}}}, r"crops.hue: .*less than or equal to 0.5 \(it is 0.6\)"),
        ({"space": {"perturbation.attack": {"choice": ["free", "fgsm"]}}}, r"\(it is 'fgsm'\)"),
        ({"space": {"crops.views": 1}}, r"\(it is 1\)"),
        (
            {"search": {"sampler": "grid"}, "space": {"perturbation.epsilon": {"float": [0.1, 0.2]}}},
            r"space.perturbation.epsilon: search.sampler grid cannot take all real numbers from 0.1 to 0.2: .*choice",
        ),
        (
            {"search": {"sampler": "grid"}, "space": {"seed": {"int": [0, 3]}}, "budget": {"trials": 5}},
            "budget.trials must be at most 4, the points of the grid",
        ),
        (
            {"search": {"sampler": "grid"}, "space": {"seed": {"int": [0, 3]}}, "conditions": ["seed > 3"]},
            r"none of the grid's points meets them \(seed > 3\)",
        ),
        (
            {"space": {"seed": {"int": [0, 3]}}, "trial": {"data": {"validation_images": 0}}},
            "clean_accuracy is measured on data.validation_images, which is 0",
        ),
        (
            {
                "objectives": {"flops": "minimize", "robust_accuracy": "maximize"},
                "space": {"seed": {"int": [0, 3]}},
                "trial": {"evaluation": {"transfer": {"name": "cifar100", "validation_images": 0}}},
            },
            "robust_accuracy is measured on evaluation.transfer.validation_images, which is 0",
        ),
        ({"conditions": ["crops.views < 16"]}, r"none of 4096 random points .* meets them \(crops.views < 16\)"),
        ({"conditions": ["crops.viws < 16"]}, "names crops.viws, which no trial has"),
        ({"conditions": ["crops.views"]}, "neither true nor false"),
        ({"conditions": ["crops.views <"]}, "cannot be read as a condition"),
        (
            {"space": {"perturbation.attack": "pgd", "pretraining.replays": {"int": [2, 4]}}},
            "none of 4096 random points",
        ),
        (
            {"space": {"pretraining.batch_images": {"choice": [50, 75]}}, "resources": {"workers_per_trial": 2}},
            "batch_images 75 cannot be shared",
        ),
    ],
    ids=str,
)
def test_what_makes_no_study_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**given)


@pytest.mark.parametrize("step", [1, 25])
def test_every_batch_size_of_a_range_can_be_shared_by_the_workers(step: int) -> None:
    with pytest.raises(ValidationError, match="cannot be shared evenly"):
        study(
            space={"pretraining.batch_images": {"int": [50, 100], "step": step}},
            resources={"workers_per_trial": 2},
        )


def test_batch_sizes_on_a_grid_of_the_workers_are_taken() -> None:
    batches = {"int": [50, 100], "step": 10}
    assert study(space={"pretraining.batch_images": batches}, resources={"workers_per_trial": 2}).space


def test_a_condition_that_some_points_cannot_compute_is_refused_before_any_trial() -> None:
    with pytest.raises(ValidationError, match="cannot be computed: division by zero"):
        study(space={"crops.views": {"int": [2, 40]}}, conditions=["10 / (crops.views - 3) > 0"])


def test_a_rule_between_keys_leaves_out_points_not_the_space() -> None:
    both = study(space={"perturbation.attack": {"choice": ["free", "pgd"]}, "pretraining.replays": {"choice": [1, 3]}})
    admitted = [
        (attack, replays)
        for attack in ("free", "pgd")
        for replays in (1, 3)
        if both.admits({"perturbation.attack": attack, "pretraining.replays": replays})
    ]
    assert admitted == [("free", 1), ("free", 3), ("pgd", 1)]


def test_a_point_is_admitted_iff_it_meets_the_conditions() -> None:
    config = study(
        space={"crops.views": {"int": [2, 9]}, "pretraining.replays": {"int": [1, 4]}},
        conditions=["crops.views * pretraining.replays <= 12", "updates > 4500"],
    )
    source = random.Random(0)  # noqa: S311
    for _ in range(50):
        point = {key: draw(written, source) for key, written in config.space.items()}
        views, replays = point["crops.views"], point["pretraining.replays"]
        assert isinstance(views, int)
        assert isinstance(replays, int)
        assert config.admits(point) is (views * replays <= 12 and replays > 1)


@pytest.mark.parametrize(
    "given",
    [
        {"objectives": {"flops": "minimize"}},
        {"space": {}},
        {"trial": {"data": {"validation_images": 0}, "evaluation": {"transfer": {"name": "cifar100"}}}},
        {"space": {"data.validation_images": {"choice": [0, 5000]}}},
    ],
    ids=str,
)
def test_without_validation_images_what_needs_none_is_taken(given: dict[str, Any]) -> None:
    unmeasured = {"trial": {"data": {"validation_images": 0}}, "space": {"seed": {"int": [0, 3]}}}
    assert study(**(unmeasured | given)).name == "study"


def test_a_grid_takes_the_points_that_meet_conditions_and_rules_the_last_key_first() -> None:
    grid = study(
        search={"sampler": "grid"},
        budget={"trials": 5},
        space={
            "perturbation.attack": {"choice": ["pgd", "free"]},
            "crops.views": 4,
            "pretraining.replays": {"int": [1, 4]},
        },
        conditions=["pretraining.replays < 4 or crops.views != 4 or perturbation.attack == 'free'"],
    )
    expected = [("pgd", 4, 1), ("free", 4, 1), ("free", 4, 2), ("free", 4, 3), ("free", 4, 4)]
    assert [tuple(point.values()) for point in grid.points()] == expected
    assert all(list(point) == list(grid.space) for point in grid.points())


def test_points_are_the_same_every_time_and_meet_the_conditions() -> None:
    config = study(space={"crops.views": {"int": [2, 40]}}, conditions=["crops.views < 9"])
    points = list(config.points())
    assert points == list(config.points())
    assert {point["crops.views"] for point in points} == set(range(2, 9))


def test_a_value_out_of_bounds_is_not_admitted() -> None:
    assert not study().admits({"crops.views": 1})


def test_the_machines_are_the_product_of_trials_workers_and_shares() -> None:
    resources = study(
        resources={"trials_at_once": 4, "workers_per_trial": 2, "cpus_per_worker": 3, "gpus_per_worker": 0.5}
    ).resources
    assert (resources.cpus_at_once, resources.gpus_at_once) == (24, 4.0)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "other"},
        {"question": "Why?"},
        {"budget": {"trials": 99}},
        {"resources": {"trials_at_once": 9}},
        {"keep_encoders": "all"},
        {"reference": {"clean_accuracy": 0.1}},
    ],
    ids=str,
)
def test_a_study_stays_the_same_with_another_budget_machine_or_wording(given: dict[str, Any]) -> None:
    assert study(**given).identity() == study().identity()


@pytest.mark.parametrize(
    "given",
    [
        {"objectives": {"robust_accuracy": "maximize", "flops": "minimize"}},
        {"search": {"seed": 1}},
        {"trial": {"seed": 1}},
        {"space": {"crops.views": {"int": [2, 4]}}},
        {"conditions": ["crops.views <= 16"]},
    ],
    ids=str,
)
def test_a_study_is_another_with_other_trials_or_objectives(given: dict[str, Any]) -> None:
    assert study(**given).identity() != study().identity()

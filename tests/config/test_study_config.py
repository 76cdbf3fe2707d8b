import random
from dataclasses import fields
from itertools import islice
from typing import Any

import pytest
from pydantic import ValidationError

from cfamc_ray.config.measures import MEASURES
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.metrics import objectives
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.training.epoch_metrics import TrialMetrics


def study(**given: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "study", **given})


def checked(**given: Any) -> StudyConfig:
    config = study(**given)
    SearchSpace(config).check()
    return config


def test_every_objective_is_reported_by_a_trial() -> None:
    assert set(objectives()) - MEASURES.classes.keys() <= {field.name for field in fields(TrialMetrics)}


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
        (
            {"search": {"sampler": "cmaes"}},
            "there is no sampler 'cmaes': there are front, tpe, nsga2, nsga3, gp, random, g",
        ),
        ({"objectives": {"train_seconds": "minimize"}}, "no trial reports 'train_seconds'"),
        ({"search": {"mo_asha": {"rungs": []}}}, "at least 1"),
        ({"search": {"mo_asha": {"rungs": [0.5, 1]}}}, r"rungs must lie between 0 and 1, not \[0.5, 1.0\]"),
        ({"search": {"mo_asha": {"rungs": [0, 0.5]}}}, r"rungs must lie between 0 and 1, not \[0.0, 0.5\]"),
        ({"search": {"mo_asha": {"keep": 0}}}, "greater than 0"),
        ({"search": {"mo_asha": {"keep": 1}}}, "less than 1"),
        ({"budget": {"trials": 0}}, "greater than or equal to 1"),
        ({"budget": {"crop_passes": 0}}, "greater than 0"),
        ({"budget": {"flops": -1}}, "greater than 0"),
        ({"budget": {"hours": float("inf")}}, "finite"),
        ({"budget": {"plateau": {"trials": 0}}}, "greater than or equal to 1"),
        ({"budget": {"plateau": {"tolerance": -0.01}}}, "greater than or equal to 0"),
        ({"resources": {"memory_gb_per_worker": 0}}, "greater than 0"),
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
            {"search": {"sampler": "grid"}, "space": {"seed": {"int": [0, 3]}}, "constraints": ["seed > 3"]},
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
        ({"constraints": ["crops.views < 16"]}, r"none of 4096 random points .* meets them \(crops.views < 16\)"),
        ({"constraints": ["crops.viws < 16"]}, "names crops.viws, which no trial has"),
        ({"constraints": ["crops.views"]}, "neither true nor false"),
        ({"constraints": ["crops.views <"]}, "cannot be read as a constraint"),
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
    with pytest.raises(ValueError, match=message):
        checked(**given)


@pytest.mark.parametrize("step", [1, 25])
def test_every_batch_size_of_a_range_can_be_shared_by_the_workers(step: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared evenly"):
        checked(
            space={"pretraining.batch_images": {"int": [50, 100], "step": step}},
            resources={"workers_per_trial": 2},
        )


def test_batch_sizes_on_a_grid_of_the_workers_are_taken() -> None:
    batches = {"int": [50, 100], "step": 10}
    assert checked(space={"pretraining.batch_images": batches}, resources={"workers_per_trial": 2}).space


def test_a_constraint_that_some_points_cannot_compute_is_refused_before_any_trial() -> None:
    with pytest.raises(ValueError, match="cannot be computed: division by zero"):
        checked(space={"crops.views": {"int": [2, 40]}}, constraints=["10 / (crops.views - 3) > 0"])


def test_a_rule_between_keys_leaves_out_points_not_the_space() -> None:
    both = study(space={"perturbation.attack": {"choice": ["free", "pgd"]}, "pretraining.replays": {"choice": [1, 3]}})
    admitted = [
        (attack, replays)
        for attack in ("free", "pgd")
        for replays in (1, 3)
        if SearchSpace(both).admits({"perturbation.attack": attack, "pretraining.replays": replays})
    ]
    assert admitted == [("free", 1), ("free", 3), ("pgd", 1)]


def test_a_point_is_admitted_iff_it_meets_the_constraints() -> None:
    config = study(
        space={"crops.views": {"int": [2, 9]}, "pretraining.replays": {"int": [1, 4]}},
        constraints=["crops.views * pretraining.replays <= 12", "updates > 4500"],
    )
    source = random.Random(0)  # noqa: S311
    for _ in range(50):
        point = SearchSpace(config).draw(source)
        views, replays = point["crops.views"], point["pretraining.replays"]
        assert isinstance(views, int)
        assert isinstance(replays, int)
        assert SearchSpace(config).admits(point) is (views * replays <= 12 and replays > 1)


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
    assert checked(**(unmeasured | given)).name == "study"


def test_a_grid_takes_the_points_that_meet_conditions_and_rules_the_last_key_first() -> None:
    grid = study(
        search={"sampler": "grid"},
        budget={"trials": 5},
        space={
            "perturbation.attack": {"choice": ["pgd", "free"]},
            "crops.views": 4,
            "pretraining.replays": {"int": [1, 4]},
        },
        constraints=["pretraining.replays < 4 or crops.views != 4 or perturbation.attack == 'free'"],
    )
    expected = [("pgd", 4, 1), ("free", 4, 1), ("free", 4, 2), ("free", 4, 3), ("free", 4, 4)]
    assert [tuple(point.values()) for point in SearchSpace(grid).points()] == expected
    assert all(list(point) == list(grid.space) for point in SearchSpace(grid).points())


def test_points_are_the_same_every_time_and_meet_the_constraints() -> None:
    config = study(space={"crops.views": {"int": [2, 40]}}, constraints=["crops.views < 9"])
    points = list(SearchSpace(config).points())
    assert points == list(SearchSpace(config).points())
    assert {point["crops.views"] for point in points} == set(range(2, 9))


def test_a_value_out_of_bounds_is_not_admitted() -> None:
    assert not SearchSpace(study()).admits({"crops.views": 1})


def test_the_machines_are_the_product_of_trials_workers_and_shares() -> None:
    resources = study(
        resources={"trials_at_once": 4, "workers_per_trial": 2, "cpus_per_worker": 3, "gpus_per_worker": 1}
    ).resources
    assert (resources.cpus_at_once, resources.gpus_at_once) == (24, 8.0)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "other"},
        {"question": "Why?"},
        {"budget": {"trials": 99}},
        {"resources": {"trials_at_once": 9}},
        {"keep_encoders": "all"},
        {"reference": {"clean_accuracy": 0.1}},
        {"budget": {"hours": 2, "crop_passes": 1e9, "flops": 1e18, "plateau": {}}},
        {"resources": {"memory_gb_per_worker": 8}},
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
        {"search": {"mo_asha": {}}},
        {"trial": {"seed": 1}},
        {"space": {"crops.views": {"int": [2, 4]}}},
        {"constraints": ["crops.views <= 16"]},
    ],
    ids=str,
)
def test_a_study_is_another_with_other_trials_or_objectives(given: dict[str, Any]) -> None:
    assert study(**given).identity() != study().identity()


def test_mo_asha_and_plateau_have_usable_defaults_and_are_off_unless_asked_for() -> None:
    config = study(search={"mo_asha": {}}, budget={"plateau": {}})
    assert config.search.mo_asha is not None
    assert all(0 < rung < 1 for rung in config.search.mo_asha.rungs)
    assert config.budget.plateau is not None
    assert (study().search.mo_asha, study().budget.plateau) == (None, None)


def test_rungs_and_shares_are_read_as_fractions() -> None:
    mo_asha = study(search={"mo_asha": {"rungs": ["1/8", "1/2"], "keep": "1/3"}}).search.mo_asha
    assert mo_asha is not None
    assert (mo_asha.rungs, mo_asha.keep) == ((0.125, 0.5), 1 / 3)


class TestStartFrom:
    SPACE: dict[str, Any] = {
        "crops.views": {"int": [2, 40], "step": 2},
        "perturbation.epsilon": {"float": ["1/255", "16/255"]},
        "encoder.norm": {"choice": ["batch", "group"]},
        "pretraining.epochs": 4,
    }
    POINT: dict[str, Any] = {"crops.views": 4, "perturbation.epsilon": "8/255", "encoder.norm": "group"}

    def test_points_take_the_order_of_the_space_its_constants_and_fractions_as_numbers(self) -> None:
        config = study(space=self.SPACE, start_from=[dict(reversed(self.POINT.items()))])
        (point,) = SearchSpace(config).first_points
        assert list(point.items()) == [
            ("crops.views", 4),
            ("perturbation.epsilon", 8 / 255),
            ("encoder.norm", "group"),
            ("pretraining.epochs", 4),
        ]
        assert SearchSpace(config).contains(point)

    def test_a_recipe_gives_its_values_of_the_searched_keys_in_the_study_s_variant(self) -> None:
        space = {"crops.views": {"int": [2, 40]}, "perturbation.project_first": {"choice": [True, False]}}
        config = study(space=space, start_from=["cf-amc-ssl", "simclr-crops-free"])
        assert [tuple(point.values()) for point in SearchSpace(config).first_points] == [(16, True), (2, True)]
        published = study(
            space=space,
            start_from=["cf-amc-ssl"],
            base="cf-amc-ssl",
            variant="published",
            trial={"data": {"validation_images": 5000, "pretrain_images": 45_000, "probe_images": 45_000}},
        )
        assert SearchSpace(published).first_points == [{"crops.views": 16, "perturbation.project_first": False}]

    def test_recipes_that_are_searched_start_from_themselves(self) -> None:
        names = ["simclr-crops-pgd", "cf-amc-ssl"]
        config = study(space={"base": {"choice": [*names, "simclr-crops"]}, "seed": {"int": [0, 9]}}, start_from=names)
        assert SearchSpace(config).first_points == [{"base": name, "seed": 0} for name in names]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"start_from": ["cf-amc-sll"]}, "start_from: .*cf-amc-sll"),
            ({"start_from": [{**POINT, "crops.view": 4}]}, "crops.view is not a key of space: crops.views, perturb"),
            ({"start_from": [{"crops.views": 4}]}, "has perturbation.epsilon None, which is not in space.perturbation"),
            ({"start_from": [{**POINT, "crops.views": 5}]}, r"has crops.views 5, .*'step': 2\}: widen the range"),
            ({"start_from": [{**POINT, "crops.views": 4.0}]}, "has crops.views 4.0, which is not in space.crops.views"),
            ({"start_from": [{**POINT, "encoder.norm": "layer"}]}, "has encoder.norm 'layer', which is not in"),
            ({"start_from": [{**POINT, "pretraining.epochs": 5}]}, "has pretraining.epochs 5, which is not in"),
            ({"start_from": ["cf-amc-ssl"]}, "start_from: cf-amc-ssl has .*, which is not in space"),
            (
                {"start_from": [POINT], "constraints": ["crops.views > 9"]},
                r"\{crops.views: 4, .* does not meet the constr",
            ),
            ({"start_from": 3}, "start_from"),
            (
                {
                    "search": {"sampler": "grid"},
                    "budget": {"trials": 1},
                    "space": {"crops.views": {"int": [2, 4]}},
                    "start_from": [{"crops.views": 4}],
                },
                "start_from: search.sampler grid has its own order",
            ),
        ],
        ids=str,
    )
    def test_what_is_no_point_of_the_space_is_refused(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            checked(**({"space": self.SPACE} | given))

    def test_they_may_change_while_a_study_goes_on(self) -> None:
        assert study(space=self.SPACE, start_from=[self.POINT]).identity() == study(space=self.SPACE).identity()


class TestContains:
    CONFIG = study(
        space={"crops.views": {"int": [2, 40]}, "perturbation.attack": {"choice": ["free", "pgd"]}, "seed": 7},
        constraints=["crops.views <= 30"],
    )
    POINT: dict[str, Any] = {"crops.views": 30, "perturbation.attack": "free", "seed": 7}

    def test_all_points_that_are_drawn_lie_in_the_space(self) -> None:
        assert all(SearchSpace(self.CONFIG).contains(point) for point in islice(SearchSpace(self.CONFIG).points(), 50))

    def test_the_order_of_the_keys_does_not_matter(self) -> None:
        assert SearchSpace(self.CONFIG).contains(dict(reversed(self.POINT.items())))

    @pytest.mark.parametrize(
        "changed",
        [
            {"crops.views": 31},
            {"crops.views": 41},
            {"crops.views": 4.0},
            {"seed": 8},
            {"perturbation.attack": "pgd"},  # the default has 3 replays, which PGD does not take
            {"perturbation.attack": "none"},
            {"crops.hue": 0.1},
        ],
        ids=str,
    )
    def test_a_point_that_breaks_a_range_a_constraint_or_a_rule_does_not(self, changed: dict[str, Any]) -> None:
        assert SearchSpace(self.CONFIG).contains(self.POINT)
        assert not SearchSpace(self.CONFIG).contains(self.POINT | changed)

    @pytest.mark.parametrize("key", POINT)
    def test_a_point_that_lacks_a_key_does_not(self, key: str) -> None:
        assert not SearchSpace(self.CONFIG).contains(
            {other: value for other, value in self.POINT.items() if other != key}
        )


def test_the_schema_draws_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    trial_at = StudyConfig.trial_at
    monkeypatch.setattr(StudyConfig, "trial_at", lambda self, point: made.append(1) or trial_at(self, point))  # type: ignore[func-returns-value]
    config = study(
        space={"crops.views": {"int": [2, 40]}, "perturbation.epsilon": {"float": [0, 0.1]}},
        constraints=["crops.views > 99"],
        resources={"workers_per_trial": 2},
    )
    assert len(made) == 4, "the two edges of each range"
    with pytest.raises(ValueError, match="none of 4096"):
        SearchSpace(config).check()


def test_a_misspelt_objective_is_told_the_nearest_metric() -> None:
    with pytest.raises(ValidationError, match=r"no trial reports 'flop'; did you mean flops"):
        study(objectives={"flop": "minimize"})

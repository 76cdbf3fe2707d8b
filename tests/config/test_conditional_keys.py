"""Keys of components that are searched together with the component they belong to."""

from typing import Any, Literal

import pytest

from cfamc_ray.config.active_keys import active, component_sections
from cfamc_ray.config.encoder import BACKBONES, BackboneConfig
from cfamc_ray.config.optimizers import OPTIMIZERS, AdamWConfig, LarsConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.space.search_space import SearchSpace

LOSSES = {"choice": ["emp_ssl", "nt_xent", "sup_con"]}
TEMPERATURE = {"float": [0.05, 0.5]}
BOTH = {"loss.name": LOSSES, "loss.temperature": TEMPERATURE, "crops.views": 2}


def study(**given: Any) -> StudyConfig:
    config = StudyConfig.model_validate({"name": "study", **given})
    SearchSpace(config).check()
    return config


def test_a_value_counts_where_the_component_has_the_key_and_is_ignored_elsewhere() -> None:
    config = study(space=BOTH)
    for name, temperature in (("nt_xent", 0.3), ("sup_con", 0.3), ("emp_ssl", None)):
        trial = config.trial_at({"loss.name": name, "loss.temperature": 0.3, "crops.views": 2})
        assert (trial.loss.component_name(), trial.value_of("loss.temperature")) == (name, temperature)


@pytest.mark.parametrize("keys", [["loss.name", "loss.temperature"], ["loss.temperature", "loss.name"]])
@pytest.mark.parametrize("name", ["emp_ssl", "nt_xent"])
def test_the_order_of_the_keys_does_not_matter(keys: list[str], name: str) -> None:
    config = study(space={key: BOTH[key] for key in keys}, trial={"crops": {"views": 2}})
    values: dict[str, Any] = {"loss.name": name, "loss.temperature": 0.3}
    expected = {"name": name, **({"temperature": 0.3} if name == "nt_xent" else {})}
    assert config.tree_at({key: values[key] for key in keys})["loss"] == expected


def test_several_keys_of_a_component_that_the_shared_trial_chooses_all_count() -> None:
    keys = {"perturbation.steps": {"int": [2, 9]}, "perturbation.keep_attack_gradients": {"choice": [False, True]}}
    config = study(trial={"perturbation": {"attack": "pgd"}, "pretraining": {"replays": 1}}, space=keys)
    trial = config.trial_at({"perturbation.steps": 7, "perturbation.keep_attack_gradients": True})
    assert [trial.value_of(key) for key in keys] == [7, True]


def test_a_changed_copy_of_a_study_has_its_own_trials() -> None:
    config = study(trial={"seed": 3}, space=BOTH)
    point: dict[str, Any] = {"loss.name": "nt_xent", "loss.temperature": 0.3, "crops.views": 2}
    assert config.trial_at(point).seed == 3
    changed = config.model_copy(update={"trial": config.trial.with_values({"seed": 4})})
    assert [each.trial_at(point).seed for each in (changed, config, changed)] == [4, 3, 4]


def test_keys_of_the_shared_trial_give_way_with_their_component() -> None:
    config = study(trial={"loss": {"invariance_weight": 50.0}, "crops": {"views": 2}}, space=BOTH)
    for name, weight in (("emp_ssl", 50.0), ("nt_xent", None)):
        trial = config.trial_at({"loss.name": name, "loss.temperature": 0.3, "crops.views": 2})
        assert trial.value_of("loss.invariance_weight") == weight


def test_a_component_has_its_own_defaults_also_once_the_study_is_written_out() -> None:
    """study.yaml has all keys; those that nobody has given are not those of another component."""
    space = {"loss.name": LOSSES, "optimizer.name": {"choice": ["lars", "adamw"]}}
    config = study(space=space, trial={"loss": "nt_xent", "optimizer": {"weight_decay": 0.01}, "crops": {"views": 2}})
    point: dict[str, Any] = {"loss.name": "sup_con", "optimizer.name": "adamw"}
    trial = config.trial_at(point)
    assert trial.value_of("loss.temperature") == 0.1
    assert [trial.value_of(f"optimizer.{key}") for key in ("lr", "weight_decay")] == [1e-3, 0.01]
    again = StudyConfig.model_validate(config.model_dump(mode="json"))
    assert again.trial_at(point) == trial
    assert trial.with_values({"optimizer.name": "lars"}).value_of("optimizer.lr") == 0.3
    assert TrialConfig().with_values({"optimizer.name": "adamw"}).optimizer == AdamWConfig()


def test_a_component_that_is_derived_from_the_unnamed_one_has_its_name() -> None:
    class LarcConfig(LarsConfig):
        """LARS by another name."""

        name: Literal["larc"] = "larc"  # type: ignore[assignment]

    OPTIMIZERS.register(LarcConfig)
    try:
        trial = TrialConfig.model_validate({"optimizer": {"name": "larc", "lr": 0.1}})
        assert TrialConfig.model_validate(trial.model_dump(mode="json")) == trial
        assert isinstance(trial.optimizer, LarcConfig)
        assert trial.fingerprint != TrialConfig().with_values({"optimizer.lr": 0.1}).fingerprint
    finally:
        del OPTIMIZERS.classes["larc"]


def test_a_fixed_component_or_a_searched_recipe_may_have_the_key() -> None:
    assert study(trial={"loss": {"name": "sup_con"}}, space={"loss.temperature": TEMPERATURE}).space
    recipes = {"base": {"choice": ["cf-amc-ssl", "simclr-crops"]}, "loss.temperature": TEMPERATURE}
    config = study(space=recipes)
    for name, temperature in (("cf-amc-ssl", None), ("simclr-crops", 0.3)):
        trial = config.trial_at({"base": name, "loss.temperature": 0.3})
        assert trial.value_of("loss.temperature") == temperature


@pytest.mark.parametrize(
    "given",
    [
        {"space": {"loss.temperature": TEMPERATURE}},
        {"space": {"loss.name": {"choice": ["emp_ssl"]}, "loss.temperature": TEMPERATURE}},
        {"space": {"base": {"choice": ["cf-amc-ssl", "emp-ssl-crops-pgd"]}, "loss.temperature": TEMPERATURE}},
    ],
    ids=str,
)
def test_a_key_that_no_searched_or_fixed_component_has_is_refused(given: dict[str, Any]) -> None:
    said = (
        "space.loss.temperature: no loss of this study has this key, which belongs to nt_xent, sup_con: "
        "set or search loss.name too, or leave the key out"
    )
    with pytest.raises(ValueError, match=said):
        study(**given)


def test_the_edges_of_a_range_are_checked_with_the_component_that_has_the_key() -> None:
    wrong = {**BOTH, "loss.temperature": {"float": [0.0, 0.5]}}
    with pytest.raises(ValueError, match=r"space.loss.temperature: .*greater than 0 \(it is 0.0\)"):
        study(space=wrong)


def test_an_unknown_key_of_a_component_is_still_refused() -> None:
    with pytest.raises(ValueError, match=r"loss.temprature: no such key of a trial; did you mean loss.temperature"):
        study(space={"loss.name": LOSSES, "loss.temprature": TEMPERATURE})
    assert active(TrialConfig, {"loss": {"name": "emp_ssl", "odd": 1, "temperature": 1}}) == {
        "loss": {"name": "emp_ssl", "odd": 1}
    }


def test_a_grid_has_one_point_for_each_trial() -> None:
    space = {"loss.name": LOSSES, "loss.temperature": {"choice": [0.1, 0.2]}, "crops.views": 2}
    grid = study(space=space, search={"sampler": "grid"}, budget={"trials": 5})
    points = [(point["loss.name"], point["loss.temperature"]) for point in SearchSpace(grid).points()]
    assert points == [("emp_ssl", 0.1), ("nt_xent", 0.1), ("nt_xent", 0.2), ("sup_con", 0.1), ("sup_con", 0.2)]
    with pytest.raises(ValueError, match=r"budget\.trials must be at most 5, the points of the grid"):
        study(space=space, search={"sampler": "grid"}, budget={"trials": 6})


def test_points_that_differ_in_an_ignored_value_alone_are_the_same() -> None:
    space = SearchSpace(study(space=BOTH))
    cold, warm = ({"loss.temperature": temperature, "crops.views": 2} for temperature in (0.1, 0.2))
    assert space.identity({"loss.name": "emp_ssl", **cold}) == space.identity({"loss.name": "emp_ssl", **warm})
    assert space.identity({"loss.name": "nt_xent", **cold}) != space.identity({"loss.name": "nt_xent", **warm})


def test_a_first_point_may_leave_out_what_is_ignored() -> None:
    space = {**BOTH, "crops.views": {"choice": [2, 16]}}
    config = study(space=space, start_from=["cf-amc-ssl", {"loss.name": "emp_ssl", "crops.views": 2}])
    assert [tuple(point.values()) for point in SearchSpace(config).first_points] == [
        ("emp_ssl", 0.05, 16),
        ("emp_ssl", 0.05, 2),
    ]
    with pytest.raises(ValueError, match=r"has loss\.temperature None, which is not in space.loss.temperature"):
        study(space=space, start_from=[{"loss.name": "nt_xent", "crops.views": 2}])


class TubeConfig(BackboneConfig):
    """A backbone with a key of its own, among others that are written as their names."""

    name: Literal["tube"] = "tube"
    length: int = 1


@pytest.mark.parametrize("shared", [{}, {"encoder": {"architecture": {"name": "tube", "length": 7}}}], ids=str)
@pytest.mark.parametrize("last", ["architecture", "length"])
def test_a_component_that_is_searched_by_its_bare_name_is_searched_with_its_keys(
    monkeypatch: pytest.MonkeyPatch, shared: dict[str, Any], last: str
) -> None:
    monkeypatch.setitem(BACKBONES.classes, "tube", TubeConfig)
    choice, length = "encoder.architecture", "encoder.architecture.length"
    space = {choice: {"choice": ["resnet18", "tube"]}, length: {"int": [1, 3]}}
    config = study(trial=shared, space=space if last == "length" else dict(reversed(space.items())))
    values: dict[str, Any] = {choice: "tube", length: 3}
    found = [
        config.trial_at({key: ({**values, choice: name})[key] for key in config.space}) for name in ("resnet18", "tube")
    ]
    assert [(trial.value_of(choice), trial.value_of(length)) for trial in found] == [("resnet18", None), ("tube", 3)]
    with pytest.raises(ValueError, match=r"belongs to tube: set or search encoder\.architecture too"):
        study(space={length: {"int": [1, 3]}})


def test_a_constraint_asks_for_the_component_first() -> None:
    config = study(space=BOTH, constraints=["loss.name == 'emp_ssl' or loss.temperature < 0.2"])
    points = list(SearchSpace(config).points())
    assert {point["loss.name"] for point in points} == {"emp_ssl", "nt_xent", "sup_con"}
    assert all(point["loss.temperature"] < 0.2 for point in points if point["loss.name"] != "emp_ssl")  # type: ignore[operator]


def test_the_sections_that_hold_a_component_are_found() -> None:
    assert component_sections(TrialConfig)["loss"].registry.kind == "loss"

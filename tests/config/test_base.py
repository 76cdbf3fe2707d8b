"""Studies whose trials start from recipes: one for all of them, or one that is searched."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.space.reading import read_study, resolve_study
from cfamc_ray.space.search_space import SearchSpace

SMALL_DATA = {"name": "digits", "pretrain_images": 600, "probe_images": 200, "validation_images": 200}
SEARCHED = {"space": {"base": {"choice": ["cf-amc-ssl", "simclr-crops-pgd"]}}}


def study(**given: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "study", **given})


def read_again(config: StudyConfig, folder: Path) -> StudyConfig:
    (folder / "study.yaml").write_text(dump_study(config), encoding="utf-8")
    return read_study(folder / "study.yaml")


class TestOneForAll:
    @pytest.mark.parametrize("name", recipe_names())
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_the_trial_is_the_recipe_s(self, name: str, variant: Variant) -> None:
        assert study(base=name, variant=variant).trial == read_recipe(name).trial(variant)

    def test_what_is_written_wins_and_what_is_not_is_the_recipe_s(self) -> None:
        config = study(base="simclr-crops-pgd", trial={"data": SMALL_DATA, "crops": {"hue": 0.3}})
        expected = {f"data.{key}": value for key, value in SMALL_DATA.items()} | {"crops.hue": 0.3}
        assert config.trial == read_recipe("simclr-crops-pgd").trial().with_values(expected)

    def test_a_default_that_is_written_wins_too(self) -> None:
        trial = study(base="simclr-crops", trial={"pretraining": {"batch_images": 100}}).trial
        assert (trial.pretraining.batch_images, trial.pretraining.epochs) == (100, 500)

    def test_a_trial_config_is_laid_over_the_recipe_by_what_was_set_in_it(self) -> None:
        given = TrialConfig().with_values({"crops.hue": 0.3})
        assert study(base="simclr-crops", trial=given) == study(base="simclr-crops", trial={"crops": {"hue": 0.3}})

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("name", recipe_names())
    def test_it_survives_being_written_and_read(self, name: str, variant: Variant, tmp_path: Path) -> None:
        config = study(base=name, variant=variant, trial={"crops": {"hue": 0.3}})
        again = read_again(config, tmp_path)
        assert again == config
        assert dump_study(again) == dump_study(config)
        assert again.identity() == config.identity()

    def test_points_lie_over_the_trial(self) -> None:
        config = study(base="cf-amc-ssl", trial={"seed": 3}, space={"crops.views": {"int": [2, 4]}})
        trial = config.trial_at({"crops.views": 4})
        assert trial == read_recipe("cf-amc-ssl").trial().with_values({"seed": 3, "crops.views": 4})

    def test_the_original_keys_are_not_changed(self) -> None:
        tree = {"name": "study", "base": "simclr-crops", "trial": {"crops": {"hue": 0.3}}}
        resolve_study(tree, source="here")
        assert tree["trial"] == {"crops": {"hue": 0.3}}


class TestSearched:
    def test_every_point_has_its_recipe_under_what_is_written_under_its_values(self) -> None:
        config = study(trial={"data": SMALL_DATA, "seed": 4}, **SEARCHED)
        data = {f"data.{key}": value for key, value in SMALL_DATA.items()}
        for name in ("cf-amc-ssl", "simclr-crops-pgd"):
            expected = read_recipe(name).trial().with_values({**data, "seed": 4, "crops.hue": 0.25})
            assert config.trial_at({"base": name, "crops.hue": 0.25}) == expected

    def test_the_variant_is_the_study_s(self) -> None:
        config = study(variant="published", objectives={"flops": "minimize"}, **SEARCHED)
        assert config.trial_at({"base": "cf-amc-ssl"}) == read_recipe("cf-amc-ssl").trial("published")

    def test_a_point_may_repair_what_recipe_and_trial_make_together(self) -> None:
        config = study(space={"base": {"choice": ["cf-amc-ssl", "emp-ssl-crops-pgd"]}, "pretraining.replays": 1})
        trial = config.trial_at({"base": "cf-amc-ssl", "pretraining.replays": 1, "perturbation.attack": "pgd"})
        assert (trial.perturbation.attack, trial.pretraining.replays) == ("pgd", 1)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_it_survives_being_written_and_read(self, variant: Variant, tmp_path: Path) -> None:
        trial = {"data": {"validation_images": 500, "pretrain_images": 3000, "probe_images": 45_000}, "seed": 0}
        config = study(variant=variant, trial=trial, **SEARCHED)
        again = read_again(config, tmp_path)
        assert again == config
        assert again.identity() == config.identity()
        assert dump_study(again) == dump_study(config)
        for point in SearchSpace(config).points():
            assert again.trial_at(point) == config.trial_at(point)

    def test_identity_tells_a_written_default_from_one_that_is_not(self) -> None:
        written = study(trial={"pretraining": {"batch_images": 100}}, **SEARCHED)
        assert written.trial == study(**SEARCHED).trial
        assert written.identity() != study(**SEARCHED).identity()

    def test_identity_tells_dialects_apart(self) -> None:
        corrected, published = (study(variant=name, objectives={"flops": "minimize"}, **SEARCHED) for name in VARIANTS)
        assert corrected.identity() != published.identity()

    def test_conditions_see_the_recipe_and_its_keys(self) -> None:
        space = {"base": {"choice": ["cf-amc-ssl", "simclr-crops-pgd"]}, "seed": {"choice": [0, 1]}}
        constraints = ["base == 'cf-amc-ssl' or seed < 1", "crops.views == 2 or seed > 0"]
        config = study(space=space, search={"sampler": "grid"}, budget={"trials": 2}, constraints=constraints)
        assert [tuple(point.values()) for point in SearchSpace(config).points()] == [
            ("cf-amc-ssl", 1),
            ("simclr-crops-pgd", 0),
        ]

    def test_values_that_a_recipe_cannot_have_are_not_admitted(self) -> None:
        space = {"base": {"choice": ["cf-amc-ssl", "simclr-crops"]}, "crops.views": {"choice": [2, 16]}}
        config = study(space=space, search={"sampler": "grid"}, budget={"trials": 3})
        assert [tuple(point.values()) for point in SearchSpace(config).points()] == [
            ("cf-amc-ssl", 2),
            ("cf-amc-ssl", 16),
            ("simclr-crops", 2),
        ]

    def test_a_constant_recipe_is_part_of_every_point(self) -> None:
        config = study(space={"base": "simclr-crops"})
        assert next(SearchSpace(config).points()) == {"base": "simclr-crops"}
        assert config.trial_at({"base": "simclr-crops"}) == read_recipe("simclr-crops").trial()


class TestRefusals:
    KNOWN = ", ".join(recipe_names())

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"base": "cf-amc"}, f"base: there is no recipe 'cf-amc': did you mean cf-amc-ssl? There are {KNOWN}"),
            ({"base": 3}, "base: input should be a valid string (it is 3)"),
            (
                {"base": "cf-amc-ssl", "variant": "odd"},
                "variant: input should be 'corrected' or 'published' (it is 'odd')",
            ),
            ({"base": "cf-amc-ssl", "variant": []}, "variant: input should be 'corrected' or 'published' (it is [])"),
            (
                {"base": "cf-amc-ssl", "trial": 3},
                "trial: input should be a valid dictionary or instance of TrialConfig",
            ),
            ({"base": "cf-amc-ssl", "trial": {"crops": 3}}, "trial.crops: input should be a valid dictionary"),
            (
                {"base": "cf-amc-ssl", "trial": {"crops": {"veiws": 3}}},
                "unknown key trial.crops.veiws; did you mean views?",
            ),
            (
                {"base": "simclr-crops", "trial": {"crops": {"views": 4}}},
                "trial: crops.views must be 2 with loss.name nt_xent",
            ),
            ({"variant": "published"}, "variant: published is one of a recipe: name it, as in base: cf-amc-ssl"),
            (
                {"base": "cf-amc-ssl", "space": {"base": {"choice": ["cf-amc-ssl", "simclr-crops"]}}},
                "base: cf-amc-ssl cannot be the recipe of all trials, for space.base searches it",
            ),
            (
                {"space": {"base": {"choice": ["cf-amc"]}}},
                "space.base: there is no recipe 'cf-amc': did you mean cf-amc-ssl?",
            ),
            ({"space": {"base": {"choice": ["cf-amc-ssl", None]}}}, "space.base: None is no recipe: write {choice: ["),
            ({"space": {"base": {"int": [1, 2]}}}, "space.base: 1 is no recipe: write {choice: ["),
            ({"space": {"base": {"float": [1, 2]}}}, "space.base: 1.0 is no recipe: write {choice: ["),
            (
                {"trial": {"data": {"pretrain_images": 200}}, **SEARCHED},
                "space.base: trial and simclr-crops-pgd do not fit: pretraining.batch_images 512 exceeds",
            ),
            (
                {"resources": {"workers_per_trial": 5}, **SEARCHED},
                "pretraining.batch_images 512 cannot be shared evenly by resources.workers_per_trial 5",
            ),
            (
                {"variant": "published", **SEARCHED},
                "objectives: clean_accuracy is measured on data.validation_images, which is 0: set it",
            ),
            ({"space": {"bse": "cf-amc-ssl"}}, "space.bse: no such key of a trial; did you mean base?"),
            ({"bas": "cf-amc-ssl"}, "unknown key bas; did you mean base?"),
        ],
        ids=str,
    )
    def test_one_line_names_key_value_and_remedy(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError) as caught:
            resolve_study({"name": "study", **given}, source="space.yaml")
        assert str(caught.value).startswith(f"space.yaml: {message}")
        assert "\n" not in str(caught.value)

    def test_a_point_with_an_unknown_recipe_is_an_error_of_the_caller(self) -> None:
        with pytest.raises(InputError, match="there is no recipe 'x'"):
            study().trial_at({"base": "x"})

    def test_a_point_that_makes_no_trial_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"crops\.views must be 2"):
            study().trial_at({"base": "simclr-crops", "crops.views": 3})


class TestOverrides:
    def test_a_recipe_is_set(self) -> None:
        config = resolve_study({"name": "a"}, ["base=simclr-crops", "variant=published"], source="a")
        assert config.trial == read_recipe("simclr-crops").trial("published")

    def test_another_recipe_takes_the_place_of_the_file_s(self) -> None:
        config = resolve_study({"name": "a", "base": "cf-amc-ssl"}, ["base=simclr-crops"], source="a")
        assert config.trial == read_recipe("simclr-crops").trial()

    def test_a_key_wins_over_the_recipe_whatever_the_order(self) -> None:
        overrides = ["crops.views=4", "base=cf-amc-ssl"]
        for order in (overrides, overrides[::-1]):
            assert resolve_study({"name": "a"}, order, source="a").trial.crops.views == 4

    def test_a_recipe_that_is_set_is_no_longer_searched(self) -> None:
        tree = {"name": "a", "space": {"base": {"choice": ["cf-amc-ssl", "simclr-crops"]}, "seed": {"int": [0, 3]}}}
        config = resolve_study(tree, ["base=simclr-crops"], source="a")
        assert (config.base, list(config.space)) == ("simclr-crops", ["seed"])
        assert config.trial.loss.component_name() == "nt_xent"

    def test_a_recipe_is_searched_under_space(self) -> None:
        config = resolve_study({"name": "a"}, ["space.base={choice: [cf-amc-ssl, simclr-crops]}"], source="a")
        assert {str(point["base"]) for point in SearchSpace(config).points()} == {"cf-amc-ssl", "simclr-crops"}

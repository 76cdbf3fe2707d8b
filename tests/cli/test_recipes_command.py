"""The list of recipes, and the keys of one."""

import pytest

from cfamc_ray.cli.recipes import main
from cfamc_ray.config.recipes import read_recipe, recipe_names
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.yaml12 import parse_yaml


def test_every_recipe_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[1 : 1 + len(recipe_names())]] == recipe_names()


@pytest.mark.parametrize("variant", ["corrected", "published"])
def test_the_keys_of_one_are_those_of_its_trial(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cf-amc-ssl", "--variant", variant]) == 0
    said = capsys.readouterr().out
    assert said.startswith("# CF-AMC-SSL, which is EMP-SSL on 16 crops")
    tree = parse_yaml(said)
    assert isinstance(tree, dict)
    trial = TrialConfig.model_validate(tree["trial"])
    assert trial == read_recipe("cf-amc-ssl").trial(variant)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cf-amc"]) == 2
    assert "there is no recipe 'cf-amc': did you mean cf-amc-ssl?" in capsys.readouterr().err

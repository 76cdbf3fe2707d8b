"""The page of all keys: whole, explained, and as the program is."""

from pathlib import Path

from cfamc_ray.config.keys import keys_page
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import trial_keys

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def rows() -> dict[str, list[str]]:
    """Key to what the page says of it: values, default, meaning."""
    cells = (line.strip("|").split(" | ") for line in keys_page().splitlines() if line.startswith("| `"))
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in cells}


def test_the_page_in_docs_is_what_the_program_checks() -> None:
    assert PAGE.read_text(encoding="utf-8") == keys_page(), "python -m cfamc_ray.config.keys > docs/keys.md"


def test_every_key_is_there_and_explained() -> None:
    found = rows()
    groups = {"search", "budget", "resources", "trial"}
    assert set(trial_keys()) <= found.keys()
    assert set(StudyConfig.model_fields) - groups <= found.keys()
    assert {"search.mo_asha.keep", "budget.plateau.trials", "confirm.attacks", "resources.restarts"} <= found.keys()
    assert [key for key, (*_, meaning) in found.items() if not meaning] == []


def test_values_bounds_and_defaults_are_those_of_the_models() -> None:
    found = rows()
    assert found["crops.views"][:2] == ["whole number, ≥ 2", "16"]
    assert found["perturbation.epsilon"][1] == "8/255"
    assert found["crops.scale"][:2] == ["[number, number]", "[0.08, 1.0]"]
    assert found["optimizer.momentum"][0] == "number, ≥ 0, < 1"
    assert found["loss.name"][0] == "`emp_ssl`, `nt_xent`, `sup_con`"
    assert found["name"][1] == "must be given"
    assert found["search.mo_asha"][:2] == ["a group of keys, below", "null"]

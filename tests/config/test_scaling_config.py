"""The design of a scaling study: equal budgets, whole epochs, cheap trials first."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study, find_space
from cfamc_ray.config.scaling import Cell, ScalingConfig
from cfamc_ray.space.reading import read_scaling
from cfamc_ray.space.search_space import SearchSpace

TRIAL = {
    "data": {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50},
    "pretraining": {"batch_images": 50, "replays": 1},
    "crops": {"views": 4},
}
LEARNING = {"crop_passes": [1200, 2400], "split": {"crops.views": [2, 4], "pretraining.replays": [1, 3]}}
OWN = Path(__file__).parent.parent.parent / "benchmarks" / "scaling.yaml"


def config(**learning: Any) -> ScalingConfig:
    return ScalingConfig.model_validate({"name": "made", "trial": TRIAL, "learning": {**LEARNING, **learning}})


def passes(made: ScalingConfig) -> list[int]:
    return [made.trial.with_values(dict(point)).crop_passes for point in made.learning_points]


def test_every_trial_of_a_budget_costs_the_same_and_cheap_ones_come_first() -> None:
    made = config()
    assert [cost for cost, _ in groupby(passes(made))] == [1200, 2400]
    assert len(made.learning_points) == 2 * 4 + 4  # two seeds, then one
    epochs = {tuple(p.values())[:2]: p["pretraining.epochs"] for p in made.learning_points[:4]}
    assert epochs == {(2, 1): 6, (2, 3): 2, (4, 1): 3, (4, 3): 1}
    assert [point["seed"] for point in made.learning_points[:8]] == [0] * 4 + [1] * 4


def test_what_cannot_be_spent_in_whole_epochs_is_left_out() -> None:
    made = config(split={"crops.views": [2, 4, 5, 16]}, seeds=[1])
    assert {point["crops.views"] for point in made.learning_points} == {2, 4}
    near = config(split={"crops.views": [2, 5]}, seeds=[1], tolerance=0.25)
    assert {point["crops.views"] for point in near.learning_points} == {2, 5}


def test_other_keys_vary_one_at_a_time() -> None:
    made = config(vary={"data.pretrain_images": [50, 100], "encoder.width": [8]}, seeds=[1])
    base = {"data.pretrain_images": 100, "encoder.width": 64}
    changed = [{k: v for k, v in base.items() if point[k] != v} for point in made.learning_points]
    assert all(len(keys) <= 1 for keys in changed)
    halved = [point for point in made.learning_points if point["data.pretrain_images"] == 50]
    assert {point["pretraining.epochs"] for point in halved} == {6, 12}
    assert len({tuple(point.items()) for point in made.learning_points}) == len(made.learning_points)


def test_it_is_a_study_whose_points_are_all_given() -> None:
    study = config().learning_study
    assert SearchSpace(study).first_points == config().learning_points
    assert study.budget.trials == len(SearchSpace(study).first_points)
    assert {key: len(written.edges()) for key, written in study.space.items()} == {
        "crops.views": 2,
        "pretraining.replays": 2,
        "pretraining.epochs": 6,
        "seed": 2,
    }


def cells(**system: Any) -> list[Cell]:
    return ScalingConfig.model_validate({"name": "made", "trial": TRIAL, "learning": LEARNING, "system": system}).cells


def test_the_grid_is_measured_whole_and_other_keys_one_at_a_time() -> None:
    found = cells(grid={"crops.views": [2, 8], "encoder.width": [4, 8]}, vary={"workers": [2, 5], "crops.size": [16]})
    usual = {"crops.views": 4, "encoder.width": 64, "workers": 1, "crops.size": 32}
    assert [cell.values for cell in found[:4]] == [
        {**usual, "crops.views": views, "encoder.width": width} for views in (2, 8) for width in (4, 8)
    ]
    assert [cell.values for cell in found[4:]] == [
        {**usual, **values} for values in ({"workers": 2}, {"workers": 5}, {"crops.size": 16})
    ]
    assert [cell.workers for cell in found] == [1, 1, 1, 1, 2, 5, 1]
    assert len({cell.name for cell in found}) == len(found)


def test_cells_of_other_hardware_are_others() -> None:
    system, names = {"grid": {"workers": [2]}}, []
    for resources in ({}, {"cpus_per_worker": 4}, {"gpus_per_worker": 1}):
        tree = {"name": "made", "trial": TRIAL, "system": system, "resources": resources}
        (cell,) = ScalingConfig.model_validate(tree).cells
        names.append(cell.name.rpartition("_")[2])
    assert names == ["2x1cpu", "2x4cpu", "2x1gpu"]


def test_a_cell_trains_whole_minibatches_and_measures_nothing_else() -> None:
    (cell,) = cells(grid={"pretraining.batch_images": [80]}, minibatches=3, repeats=4, warm_ups=2)
    assert cell.trial.minibatches_per_epoch == 3
    assert cell.trial.pretraining.epochs == 13  # with and without communication, and the phases
    assert not any(cell.trial.evaluates(epoch) for epoch in range(1, 14))


def test_equal_cells_are_measured_once_and_what_cannot_be_shared_is_left_out() -> None:
    found = cells(grid={"crops.views": [4, 8]}, vary={"crops.views": [4], "workers": [2, 3]})
    assert [(cell.workers, cell.values["crops.views"]) for cell in found] == [(1, 4), (1, 8), (2, 4)]
    sharing = cells(grid={"workers": [1, 4], "pretraining.batch_images": [50, 100]})
    assert [tuple(cell.values.values()) for cell in sharing] == [(1, 50), (1, 100), (4, 100)]


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"grid": {"crops.veiws": [2]}}, "crops.veiws: neither workers nor a key of a trial"),
        ({"vary": {"evaluation.attack.steps": [2]}}, "evaluation.attack.steps: neither workers nor a key"),
        ({"vary": {"pretraining.epochs": [2]}}, "pretraining.epochs: neither workers nor a key"),
        ({"grid": {"workers": [0]}}, "workers must be whole numbers from 1"),
        ({"grid": {"workers": [1.5]}}, "workers must be whole numbers from 1"),
        ({"grid": {"workers": [3]}}, "system: no combination of grid is a valid trial"),
        ({"repeats": 0}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_cell_is_refused(system: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cells(**system)


@pytest.mark.parametrize(
    ("learning", "message"),
    [
        ({"crop_passes": [2400, 1200]}, "crop_passes must ascend"),
        ({"crop_passes": [1200]}, "at least two budgets"),
        ({"crop_passes": []}, "nothing to do: write system.grid, learning.crop_passes, or both"),
        ({"seeds": [0]}, "seeds must be at least 1"),
        ({"seeds": []}, "seeds must be at least 1"),
        ({"split": {"crops.veiws": [2]}}, "crops.veiws: no key of a trial"),
        ({"split": {"pretraining.epochs": [2]}}, "epochs and seeds are set automatically"),
        ({"vary": {"perturbation.epsilon": [0.0, "4/255"]}}, "perturbation.epsilon: sizes must be above 0"),
        ({"split": {"crops.jitter_probability": [0, 0.4]}}, "crops.jitter_probability: sizes must be above 0"),
        ({"crop_passes": [1201, 1301], "tolerance": 0}, "spends 1201 in whole epochs; an epoch of trial takes 400"),
    ],
)
def test_what_makes_no_design_is_refused(learning: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**learning)


@pytest.mark.parametrize("path", [find_space("scaling"), OWN], ids=["scaling", "benchmark"])
def test_a_given_space_survives_being_written_and_read(path: Path, tmp_path: Path) -> None:
    made = read_scaling(path)
    (tmp_path / "again.yaml").write_text(dump_study(made), encoding="utf-8")
    assert read_scaling(tmp_path / "again.yaml") == made
    assert len(made.learning.crop_passes) >= 3, "or nothing can be held out"


def test_overrides_and_errors_are_those_of_a_study(tmp_path: Path) -> None:
    path = find_space("scaling")
    assert read_scaling(path, ["crops.scale=[0.5, 1]", "learning.seeds=[1]"]).trial.crops.scale == (0.5, 1)
    with pytest.raises(InputError, match=r"there is no key 'lerning'; did you mean learning\?"):
        read_scaling(path, ["lerning.seeds=[1]"])
    with pytest.raises(InputError, match=r"unknown key learning\.seed; did you mean seeds\?"):
        read_scaling(path, ["learning.seed=[1]"])


def test_a_trial_with_stages_is_refused() -> None:
    stages = [{"epochs": 1, "values": {"pretraining.replays": 3}}]
    with pytest.raises(ValidationError, match="stages: a scaling study compares trials of one stage"):
        ScalingConfig.model_validate({"name": "made", "trial": {**TRIAL, "stages": stages}, "learning": LEARNING})

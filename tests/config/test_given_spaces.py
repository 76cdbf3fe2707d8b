"""The space files that come with the project."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import PACKAGE, dump_study, find_space
from cfamc_ray.config.recipes import read_recipe, recipe_names
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import scale_remark, study_cost
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace

FOLDER = PACKAGE.parent / "search_spaces"
SPACES = sorted(path.name for path in FOLDER.glob("*.yaml") if "\nlearning:" not in path.read_text(encoding="utf-8"))
PAPER = [name for name in SPACES if name.startswith("paper_")]


def header_of(name: str) -> list[str]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return list(takewhile(lambda line: line.startswith("#"), lines))


def small(name: str) -> list[str]:
    """The overrides that the header gives for a CPU."""
    text = " ".join(line.lstrip("# ") for line in header_of(name))
    words = shlex.split(text[text.index("--set") : text.index("Takes ")])
    assert words[::2] == ["--set"] * (len(words) // 2)
    return words[1::2]


def test_there_are_spaces() -> None:
    assert {"quickstart.yaml", "pareto.yaml"} <= set(SPACES)


@pytest.mark.parametrize("name", SPACES)
def test_the_header_opens_with_question_hardware_time_and_result(name: str) -> None:
    header = header_of(name)
    words = [line.split()[1] for line in header if not line.startswith("#   ")]
    assert words == ["Question", "Hardware", "Takes", "Expected"]
    assert all(len(line.split()) > 3 for line in header)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    config = read_study(FOLDER / name)
    (tmp_path / name).write_text(dump_study(config), encoding="utf-8")
    assert read_study(tmp_path / name) == config


@pytest.mark.parametrize("name", SPACES)
def test_a_space_asks_its_question_under_its_own_name(name: str) -> None:
    config = read_study(FOLDER / name)
    assert name == f"{config.name}.yaml"
    assert config.question.endswith("?")
    assert config.space


@pytest.mark.parametrize("name", SPACES)
def test_a_bare_name_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_space(name).samefile(FOLDER / name)


def test_a_path_and_the_working_directory_s_own_spaces_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "search_spaces" / "pareto.yaml"
    own.parent.mkdir()
    own.write_text("name: own")
    assert find_space("pareto.yaml").samefile(own)
    (tmp_path / "pareto.yaml").write_text("name: nearest")
    assert find_space("pareto.yaml").samefile(tmp_path / "pareto.yaml")
    assert find_space(str(own)) == own


@pytest.mark.parametrize("name", ["nothing", "nothing.yaml", "search_spaces", ".", ""])
def test_what_is_no_file_is_refused_with_the_spaces_at_hand(name: str) -> None:
    with pytest.raises(InputError) as caught:
        find_space(name)
    assert str(caught.value).startswith(f"{name}: no such file")
    assert ", ".join(SPACES) in str(caught.value)


@pytest.mark.parametrize("name", PAPER)
def test_an_experiment_of_the_paper_is_a_whole_grid(name: str) -> None:
    config = read_study(FOLDER / name)
    points = list(SearchSpace(config).points())
    assert config.search.sampler.exhaustive
    assert len(points) == config.budget.trials
    assert len({config.trial_at(point).fingerprint for point in points}) == len(points)
    assert all(config.trial_at(point).data.name == "cifar10" for point in points)


@pytest.mark.parametrize("name", PAPER)
def test_what_an_experiment_takes_is_what_it_is_computed_to(name: str) -> None:
    config = read_study(FOLDER / name)
    cost, trials = study_cost(SearchSpace(config).sample_trials()), config.budget.trials
    text = " ".join(line.lstrip("# ") for line in header_of(name))
    found = re.search(r" ([\d,]+) for all (\d+)\..* ([\d.]+) hours for all", text)
    assert found is not None
    petaflop, written_trials, hours = (float(number.replace(",", "")) for number in found.groups())
    assert written_trials == trials
    assert petaflop * 1e15 == pytest.approx(cost.flops_mean * trials, rel=0.01)
    assert hours * 3600 == pytest.approx(petaflop * 1e15 / 100e12, rel=0.03)


@pytest.mark.parametrize("name", PAPER)
def test_an_experiment_runs_small_on_a_cpu_as_its_header_says(name: str) -> None:
    config = read_study(FOLDER / name, small(name))
    assert config.resources.gpus_at_once == 0
    assert len(list(SearchSpace(config).points())) == config.budget.trials
    for point in SearchSpace(config).points():
        trial = config.trial_at(point)
        assert (trial.data.name, trial.judged_on.name, trial.pretraining.epochs) == ("digits", "digits", 2)
        assert trial.minibatches_per_epoch == 10
    assert study_cost(SearchSpace(config).sample_trials()).crop_passes_high < 200_000


def test_the_table_has_every_published_system_with_three_seeds() -> None:
    config = read_study(FOLDER / "paper_table1.yaml")
    published = {name for name in recipe_names() if read_recipe(name).published}
    assert len(published) == 7
    drawn = [(point["base"], point["seed"]) for point in SearchSpace(config).points()]
    assert set(drawn) == {(name, seed) for name in published for seed in range(3)}
    assert [seed for _, seed in drawn] == [0] * 7 + [1] * 7 + [2] * 7


def test_the_paper_s_own_trial_is_a_point_of_its_experiments() -> None:
    own = TrialConfig().with_values({"evaluation.epsilon": 8 / 255})
    rounded = own.with_values({"perturbation.step_ratio": 0.31875})  # the default is 0.01 / (8 / 255)
    for name in set(PAPER) - {"paper_transfer.yaml"}:
        config = read_study(FOLDER / name)
        assert any(config.trial_at(point) in (own, rounded) for point in SearchSpace(config).points()), name


def test_a_transfer_pretrains_on_one_data_set_and_is_judged_on_another() -> None:
    config = read_study(FOLDER / "paper_transfer.yaml")
    for point in SearchSpace(config).points():
        trial = config.trial_at(point)
        assert (trial.data.name, trial.judged_on.name) == ("cifar10", "cifar100")


@pytest.mark.parametrize("name", SPACES)
def test_every_trial_is_evaluated_on_the_scale_that_it_trains_on(name: str) -> None:
    trials = SearchSpace(read_study(find_space(name))).sample_trials(32)
    assert {scale_remark(trial.crops.size, trial.judged_on) for trial in trials} == {""}

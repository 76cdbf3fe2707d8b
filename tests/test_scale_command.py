"""The command that fits how learning grows: its files, what it says, that it goes on, and what it refuses."""

import csv
import json
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cells_by_hand import found_of
from test_train_command import said_by

from cfamc_ray.cli.scaling import main as analyse
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.yaml12 import parse_yaml
from cfamc_ray.scale import main
from cfamc_ray.scaling.laws import fit
from cfamc_ray.space.reading import read_scaling
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.cells import CellFolder
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.tune import main as tune

CONFIG = ScalingConfig.model_validate(
    {
        "name": "grown",
        "question": "What grows?",
        "resources": {"trials_at_once": 2},
        "trial": {
            "data": {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50},
            "encoder": {"width": 4, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 8},
            "pretraining": {"batch_images": 50, "replays": 1},
            "crops": {"views": 2, "size": 16},
            "evaluation": {"attacked_images": 20, "attack": {"steps": 2}, "every_epochs": 100},
        },
        "system": {
            "grid": {"crops.views": [2, 4, 8], "encoder.width": [4, 8]},
            "vary": {"workers": [2]},
            "minibatches": 1,
            "repeats": 1,
        },
        "learning": {
            "crop_passes": [400, 800, 1600],
            "split": {"crops.views": [2, 4]},
            "seeds": [2],
        },
    }
)


def write_trials(config: StudyConfig, folder: Path, *, trials: int) -> None:
    """What trials leave whose error falls with the passes, faster with more crops."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    draw = np.random.default_rng(0)
    for number, point in enumerate(SearchSpace(config).first_points[:trials]):
        trial = config.trial_at(point)
        accuracy = 1 - (0.3 + (trial.crop_passes * trial.crops.views / 400) ** -0.5 / 4 + 0.002 * draw.normal())
        accuracies = {"clean_accuracy": accuracy, "robust_accuracy": accuracy / 2}
        costs = {"crop_passes": trial.crop_passes, "flops": 1e9, "train_seconds": 1.0, "eval_seconds": 1.0}
        trial_folder = TrialFolder(folder, number)
        trial_folder.open(point)
        epochs = range(1, trial.pretraining.epochs + 1)
        values = {**accuracies, **costs}
        trial_folder.write_rows({"epoch": epoch, "done": epoch == epochs[-1], **values} for epoch in epochs)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "grown.yaml"
    path.write_text(dump_study(CONFIG), encoding="utf-8")
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many cells each run of the system part is to write, in place of Ray; fewer than all are an interruption."""
    to_write = [len(CONFIG.cells)]

    def run_cells(config: ScalingConfig, folder: CellFolder, **_: Any) -> None:
        for cell in config.cells[: to_write[0]]:
            if not folder.measured(cell):
                folder.write(cell, found_of(cell))
        if to_write[0] < len(config.cells):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.cells", SimpleNamespace(run_cells=run_cells))
    return to_write


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, measured: list[int]) -> list[int]:
    """How many trials each run of the study is to write, in place of Ray; fewer than all are an interruption."""
    to_write = [12]

    def run_study(config: StudyConfig, folder: Path, **_: Any) -> StopReason | None:
        write_trials(config, folder, trials=to_write[0])
        return StopReason("trials", "budget.trials reached") if to_write[0] == 12 else None

    monkeypatch.setitem(sys.modules, "cfamc_ray.orchestration.run", SimpleNamespace(run_study=run_study))
    return to_write


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws are fitted to 10 bootstrap resamples; 200 take seconds."""
    monkeypatch.setattr("cfamc_ray.scaling.study.fit", partial(fit, resamples=10))


QUICK = pytest.mark.usefixtures("few_resamples", "nothing_is_drawn", "few_points_are_checked")


@pytest.mark.long
def test_it_writes_table_fits_and_figures_and_says_what_they_show(
    space: Path, tmp_path: Path, trained: list[int]
) -> None:
    said = said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"))
    assert (said.code, said.err) == (0, "")
    assert "7 of 7 cells of grown have been measured" in said.out
    assert "the model predicts a cell that was left out with a median error of 0% in time and 0% in memory" in said.out
    assert "weak efficiency 80.0%; the all-reduce of the gradients takes 10.0% of the time" in said.out
    assert "12 of 12 trials of grown have finished" in said.out
    assert "twice the crops and half the epochs change clean accuracy by +" in said.out
    assert said.out.count("groups): ") == said.out.count("resamples agree: ") == 2
    assert said.out.count("significant.") == 4
    folder = tmp_path / "runs" / "grown"
    assert {path.name for path in folder.iterdir()} == {
        *("scaling.yaml", "system", "system.csv", "learning", "learning.csv", "fits.json"),
        *(f"{name}.{ending}" for name in ("system", "phases", "learning", "allocation") for ending in ("png", "svg")),
    }
    with (folder / "system.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["status"] for cell in cells] == ["finished"] * 7
    assert [cell["workers"] for cell in cells] == ["1"] * 6 + ["2"]
    with (folder / "learning.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["budget"] for row in rows] == ["400"] * 4 + ["800"] * 4 + ["1600"] * 4
    fits = json.loads((folder / "fits.json").read_text())["learning"]["clean_accuracy"]
    assert fits["held_out"]["trials"] == 4
    assert set(fits["held_out"]["mean_absolute_error"]) >= {"total", "additive", "unchanged"}
    assert fits["views_doubled_at_equal_crop_passes"][0]["per_doubling"] == pytest.approx(0.04, abs=0.03)
    low, high = fits["laws"]["total"]["exponent_intervals_95"]["crop_passes"]
    assert low <= fits["laws"]["total"]["exponents"]["crop_passes"] <= high
    assert [best["budget"] for best in fits["allocations"]] == [400, 800, 1600]
    assert read_scaling(folder / "scaling.yaml") == CONFIG
    page = (folder / "learning" / "report" / "report.html").read_text(encoding="utf-8")
    assert ">Scaling</h2>" in page
    assert "weak efficiency 80.0%" in page
    for name in ("system", "phases", "learning", "allocation"):
        assert f'id="{name}-0"' in page


@QUICK
@pytest.mark.long
def test_an_interrupted_run_says_how_to_go_on_and_goes_on(space: Path, tmp_path: Path, trained: list[int]) -> None:
    words = ["--space", str(space), "--out", str(tmp_path / "runs"), "--quiet", "--set", "question=Why, oh why?"]
    trained[0] = 5
    said = said_by(main, *words)
    assert said.code == 130
    assert "5 of 12 trials" in said.out
    again = shlex.split(said.out.splitlines()[-1])
    assert again[1:3] == ["-m", "cfamc_ray.scale"]
    trained[0] = 12
    assert said_by(main, *again[3:]).code == 0
    finished = said_by(main, *again[3:])
    assert finished.code == 0
    assert "12 of 12 trials" in finished.out


@QUICK
@pytest.mark.long
def test_either_part_runs_alone_and_the_system_part_goes_on(
    space: Path, tmp_path: Path, trained: list[int], measured: list[int]
) -> None:
    words = ["--space", str(space), "--out", str(tmp_path / "runs")]
    measured[0] = 3
    said = said_by(main, *words, "--part", "system")
    assert said.code == 130
    assert "3 of 7 cells" in said.out
    assert "Too few cells have been measured" in said.out
    assert not (tmp_path / "runs" / "grown" / "learning").exists()
    first = (tmp_path / "runs" / "grown" / "system" / f"{CONFIG.cells[0].name}.json").stat().st_mtime_ns
    measured[0] = 7
    said = said_by(main, *shlex.split(said.out.splitlines()[-1])[3:])
    assert said.code == 0
    assert "0 of 12 trials" in said.out
    assert first == (tmp_path / "runs" / "grown" / "system" / f"{CONFIG.cells[0].name}.json").stat().st_mtime_ns
    assert said_by(main, *words, "--part", "learning").code == 0
    other = said_by(main, "--space", str(space), "--out", str(tmp_path / "other"), "--part", "learning")
    assert other.code == 0
    assert "0 of 7 cells" in other.out
    assert not (tmp_path / "other" / "grown" / "system.csv").exists()


@QUICK
@pytest.mark.parametrize(
    ("module", "function", "number", "code"),
    [("cells", "run_cells", signal.SIGTERM, 143), ("run", "run_study", signal.SIGHUP, 129)],
)
def test_signals_end_either_part_with_a_code_of_their_own(
    space: Path,
    tmp_path: Path,
    trained: list[int],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    number: signal.Signals,
    code: int,
) -> None:
    interrupted = SimpleNamespace(**{function: lambda *_, **__: signal.raise_signal(number)})
    monkeypatch.setitem(sys.modules, f"cfamc_ray.orchestration.{module}", interrupted)
    said = said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"))
    assert (said.code, said.err) == (code, "")
    assert "Interrupted; nothing is lost. Resume with\n" in said.out


@QUICK
def test_its_models_tell_what_a_study_will_take(space: Path, tmp_path: Path, trained: list[int]) -> None:
    run = tmp_path / "runs" / "grown"
    assert said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"), "--part", "system").code == 0
    for command, wanted in ((tune, "quickstart.yaml"), (main, str(space))):
        said = said_by(command, "--space", wanted, "--dry-run", "--costs", str(run))
        assert said.code == 0
        assert "# as measured on such workers: " in said.out.splitlines()[-1]
    said = said_by(tune, "--space", "quickstart.yaml", "--dry-run", "--costs", str(tmp_path))
    assert (said.code, said.err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("few_resamples")
def test_the_analysis_reads_a_run_at_any_time(space: Path, tmp_path: Path, trained: list[int]) -> None:
    trained[0] = 9
    said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"))
    said = said_by(analyse, str(tmp_path / "runs" / "grown"))
    assert (said.code, said.err) == (0, "")
    assert "9 of 12 trials" in said.out


def test_a_run_of_one_budget_has_no_law_and_says_so(space: Path, tmp_path: Path, trained: list[int]) -> None:
    trained[0] = 3
    said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"), "--part", "learning")
    folder = tmp_path / "runs" / "grown"
    said = said_by(analyse, str(folder))
    assert said.code == 1
    assert json.loads((folder / "fits.json").read_text())["learning"]["clean_accuracy"]["laws"] == {}
    assert (folder / "learning.png").stat().st_size > 5000


def test_the_dry_run_prints_what_it_will_cost(space: Path, tmp_path: Path) -> None:
    said = said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"), "--dry-run")
    assert said.code == 0
    assert parse_yaml(said.out)["name"] == "grown"
    assert "# 12 trials; 1.12e+04 crop passes" in said.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--set", "lerning.seeds=[1]"], "there is no key 'lerning'; did you mean learning?"),
        (["--set", "learning.crop_passes=[1, 2]"], "spends 1 in whole epochs; an epoch of trial takes 200"),
        (["--set", "learning.crop_passes=[]", "--part", "learning"], "has no such part; write learning.crop_passes"),
        (["--set", "system.grid={}", "--set", "system.vary={}", "--part", "system"], "write system.grid"),
        (["--set", "data.validation_images=99999"], "training images, but digits has"),
        (["--set", "evaluation.transfer={name: npz, path: gone.npz}"], "data.path gone.npz: no such file"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_line(space: Path, tmp_path: Path, words: list[str], named: str) -> None:
    said = said_by(main, "--space", str(space), "--out", str(tmp_path / "runs"), *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert named in said.err


@QUICK
def test_a_folder_of_another_design_is_refused(space: Path, tmp_path: Path, trained: list[int]) -> None:
    words = ["--space", str(space), "--out", str(tmp_path / "runs")]
    assert said_by(main, *words).code == 0
    said = said_by(main, *words, "--set", "crops.views=4")
    assert said.code == 2
    assert "belongs to a study of another space" in said.err


def test_either_command_refuses_what_is_the_other_s(space: Path, tmp_path: Path) -> None:
    said = said_by(tune, "--space", str(space), "--dry-run")
    assert (said.code, said.err) == (2, f"{space}: is for cfamc scale, as its key learning shows\n")
    said = said_by(main, "--space", "quickstart.yaml", "--dry-run", "--set", "learning.crop_passes=[400]")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "quickstart.yaml: is for cfamc tune, as its key budget shows" in said.err
    missing = said_by(analyse, str(tmp_path))
    assert (missing.code, missing.err) == (
        2,
        f"{tmp_path}: holds no scaling study (there is no scaling.yaml in it)\n",
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_real_cells_are_measured_and_real_trials_trained(space: Path, tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "runs"), "--set", "learning.seeds=[1]", "--set", "learning.crop_passes=[200, 400]"]
    command = [sys.executable, "-m", "cfamc_ray.scale", "--space", str(space), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 of 7 cells of grown have been measured" in done.stdout
    assert "2 workers, 2 crops of 50 images, width 4: weak efficiency" in done.stdout
    assert "3 of 3 trials of grown have finished" in done.stdout
    records = read_trials(tmp_path / "runs" / "grown" / "learning")
    assert [record.status for record in records] == ["finished"] * len(records)
    assert [record.value("crop_passes") for record in records] == [200, 400, 400]

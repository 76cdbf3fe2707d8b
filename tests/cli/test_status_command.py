"""How far a study is, told from another terminal."""

import io
import threading
import time
from pathlib import Path

import pytest
from made_by_hand import COST, study

from cfamc_ray.cli.status import main
from cfamc_ray.store.lock import driver_of, only_driver
from cfamc_ray.store.records import TrialFolder, write_config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished trials and one that runs, of a study of four."""
    monkeypatch.setenv("COLUMNS", "100")
    return make(tmp_path / "made", epochs=[2, 2, 1])


def make(folder: Path, *, epochs: list[int], name: str = "made") -> Path:
    folder.mkdir(parents=True)
    trial = {"pretraining": {"epochs": 2}}
    write_config(folder, study(name=name, question="Why?", budget={"trials": 4}, trial=trial))
    for number, last in enumerate(epochs):
        one = TrialFolder(folder, number)
        one.open({"crops.views": number + 2, "perturbation.epsilon": 8 / 255})
        scores = {"clean_accuracy": 0.4 + number / 10, "robust_accuracy": 0.5, "crop_passes_per_second": 1234.0}
        one.write_rows([{"epoch": epoch, "done": epoch == 2, **COST, **scores} for epoch in range(1, last + 1)])
    return folder


def test_counts_front_costs_and_running_trials_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    said = {name: rest.strip() for name, rest in lines}
    assert said["study"] == "made: Why?"
    assert said["trials"] == "2 finished, 1 running of 4 trials"
    assert said["front"] == "1 point, hypervolume 0.25  ▁██"
    assert said["best"] == "clean accuracy 50.0%, robust accuracy 50.0%"
    assert said["spent"] == "300 crop passes, 9 s of all trials"
    assert said["trial 2"] == "epoch 2 of 2; 1.23k crop passes/s; views 4, epsilon 8/255"
    assert said["at work"] == "no process"


def test_while_a_process_works_it_is_named_with_the_time_that_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert driver_of(folder) is None
    with only_driver(folder):
        owner = driver_of(folder)
        assert main([str(folder)]) == 0
    assert owner is not None
    said = capsys.readouterr().out
    assert owner in said
    assert "9 s of all trials; about 9 s left" in said  # two of four have ended
    assert driver_of(folder) is None


def test_the_studies_inside_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(folder / "prior" / "proxy", epochs=[2, 2, 2, 2], name="proxy")
    make(folder / "confirm", epochs=[2], name="confirm")
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("proxy") and line.rstrip().endswith("4 finished of 4 trials") for line in lines)
    assert any(line.startswith("fresh runs") and line.rstrip().endswith("1 finished of 4 trials") for line in lines)


def test_a_study_that_has_not_begun_has_only_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "new", epochs=[])
    assert main([str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "no trial yet of 4 trials" in said
    assert "front" not in said


def test_without_a_terminal_watching_is_one_look(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_driver(folder):
        assert main([str(folder), "--watch"]) == 0
    assert capsys.readouterr().out.count("2 finished") == 1


def test_on_a_terminal_it_is_shown_until_nobody_works_on_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("cfamc_ray.cli.status.EVERY", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        with only_driver(folder):
            ready.set()
            time.sleep(0.3)
            make_one_more(folder)
            time.sleep(0.3)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    ready.wait()
    assert main([str(folder), "--watch"]) == 0
    assert done.wait(5)
    worker.join()
    assert "2 finished, 1 running" in terminal.getvalue()
    assert "2 finished, 2 running" in terminal.getvalue()


def make_one_more(folder: Path) -> None:
    TrialFolder(folder, 3).open({"crops.views": 9, "perturbation.epsilon": 8 / 255})


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err

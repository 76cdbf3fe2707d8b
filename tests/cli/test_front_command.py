from pathlib import Path

import pytest
from made_by_hand import curve

from cfamc_ray.cli.front import main
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.records import TrialFolder, write_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with two trials on the front, one that is dominated and one that runs."""
    study = tmp_path / "made"
    study.mkdir()
    write_config(study, StudyConfig(name="made", question="Is it worth it?"))
    for number, (clean, robust, done) in enumerate(
        [(0.5, 0.5, True), (0.9, 0.1, True), (0.4, 0.4, True), (1, 1, False)]
    ):
        trial = TrialFolder(study, number)
        trial.open({})
        scores = {"clean_accuracy": clean, "robust_accuracy": robust, "crop_passes": 100}
        trial.write_rows([{"epoch": 1, "done": done, **scores}])
    return study


def test_the_front_is_drawn_into_the_study_s_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    path = folder / "report" / "front.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"2 points on the front, hypervolume 0.29: {path}\n"


def test_the_figure_goes_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    assert main([str(folder), "--out", str(tmp_path / "other" / "figure.svg")]) == 0
    assert "Is it worth it?" in (tmp_path / "other" / "figure.svg").read_text(encoding="utf-8").replace("\n", " ")
    assert not (folder / "report").exists()


def test_a_study_without_finished_trials_is_drawn_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, StudyConfig(name="empty"))
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("0 points on the front, hypervolume 0:")


@pytest.mark.parametrize("name", ["", "nothing"])
def test_a_folder_without_a_study_is_refused_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / name)]) == 2
    output = capsys.readouterr()
    assert output.err == f"{tmp_path / name}: holds no study (there is no study.yaml in it)\n"
    assert output.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["figure.xyz", "made/study.yaml/figure.png"])
def test_a_figure_that_cannot_be_written_is_refused_in_one_line(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--out", str(folder.parent / name)]) == 2
    assert name in capsys.readouterr().err


def test_operating_points_are_counted_beside_their_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, StudyConfig(name="made"))
    trial = TrialFolder(tmp_path, 0)
    trial.open({})
    trial.write_rows(curve(0, (0.01, 0.6, 0.1), (0.1, 0.5, 0.3)).rows)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("2 operating points of 1 trial on the front, hypervolume 0.16:")

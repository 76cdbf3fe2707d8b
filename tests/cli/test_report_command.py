from pathlib import Path

import pytest

from cfamc_ray.cli.report import main
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.records import write_config


def test_it_writes_the_report_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, StudyConfig(name="empty"))
    assert main([str(tmp_path), "--budget", "1e6"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report' / 'report.html'}\n"
    assert (tmp_path / "report" / "report.html").stat().st_size > 1_000_000, "Plotly is inside"


def test_a_folder_without_a_study_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: holds no study (there is no study.yaml in it)\n"
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, StudyConfig(name="empty"))
    (tmp_path / "report").write_text("mine")
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'report'}: cannot be written (")
    assert said.count("\n") == 1
    assert (tmp_path / "report").read_text() == "mine"


def test_with_paper_figures_are_pdfs_too(tmp_path: Path) -> None:
    write_config(tmp_path, StudyConfig(name="empty"))
    assert main([str(tmp_path), "--paper"]) == 0
    assert (tmp_path / "report" / "front_one.pdf").read_bytes().startswith(b"%PDF")

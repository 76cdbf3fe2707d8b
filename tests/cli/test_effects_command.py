from pathlib import Path

import pytest

from cfamc_ray.cli.effects import main
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.records import TrialFolder, write_config


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Twelve trials whose robust accuracy is a hundredth of their views."""
    space = {"crops.views": {"int": [2, 40]}}
    write_config(tmp_path, StudyConfig.model_validate({"name": "made", "space": space}))
    for number in range(12):
        trial = TrialFolder(tmp_path, number)
        trial.open({"crops.views": 2 + 3 * number})
        scores = {"clean_accuracy": 0.5, "robust_accuracy": 0.01 * (2 + 3 * number), "crop_passes": 100}
        trial.write_rows([{"epoch": 1, "done": True, **scores}])
    return tmp_path


def test_it_prints_a_row_for_each_effect_and_draws_them(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study)]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said[2:4]]
    assert rows[0] == ["clean accuracy", "crops.views", "–", "0", "0", "0", "no"]
    assert rows[1] == ["robust accuracy", "crops.views", "1", "0.38", "0.38", "0.38", "yes"]
    for line, name in zip(said[4:], ("importance", "slices"), strict=True):
        assert line == str(study / "report" / f"{name}.png")
        assert Path(line).read_bytes().startswith(b"\x89PNG")


def test_what_is_no_study_or_cannot_be_written_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study / "trial_00000")]) == 2
    assert "holds no study" in capsys.readouterr().err
    assert main([str(study), "--out", str(study / "study.yaml" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_of_the_mechanism_it_prints_a_row_for_each_relation_and_writes_table_and_figure(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        folder = TrialFolder(study, number)
        record = folder.read()
        assert record is not None
        folder.write_rows([{**record.rows[0], "invariance": 0.9 + 0.001 * number**2}])
    assert main([str(study), "--mechanism"]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said[2:6]]
    assert rows[0][:7] == ["made", "invariance", "robust gap", "nothing", "12", "12", "-1"]
    assert rows[2][:7] == ["made", "invariance", "robust accuracy", "nothing", "12", "12", "1"]
    assert rows[2][-1] == "predicts"
    assert rows[3][-1] == "too few trials, or no variation", "the views determine robust accuracy"
    assert said[6].startswith("Not measured by any finished trial: loss, coding rate, alignment, effective rank")
    png, csv = map(Path, said[7:])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert (
        csv.read_text().splitlines()[0]
        == "study,measured,target,held,trials,configurations,correlation,low,high,decision"
    )
    assert len(csv.read_text().splitlines()) == 1 + 4


def test_several_studies_are_for_the_mechanism_alone_each_of_them_once(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study), str(study)]) == 2
    assert "takes one study, not 2; several only with --mechanism" in capsys.readouterr().err
    assert main([str(study), f"{study}/../{study.name}", "--mechanism"]) == 2
    assert "given twice" in capsys.readouterr().err
    assert main([str(study), "--mechanism", "--out", str(study / "study.yaml" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err

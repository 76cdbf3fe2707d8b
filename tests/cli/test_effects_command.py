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

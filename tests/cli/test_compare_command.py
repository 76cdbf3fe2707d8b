from pathlib import Path

import pytest
from made_by_hand import curve

from cfamc_ray.cli.compare import main
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.records import TrialFolder, write_config


def study(folder: Path, level: float, **given: str) -> Path:
    """Ten trials whose accuracies add up to a level."""
    folder.mkdir()
    write_config(folder, StudyConfig.model_validate({"name": folder.name, **given}))
    for number in range(10):
        trial = TrialFolder(folder, number)
        trial.open({})
        scores = {"clean_accuracy": level * number / 10, "robust_accuracy": level * (10 - number) / 10}
        trial.write_rows([{"epoch": 1, "done": True, "crop_passes": 100, **scores}])
    return folder


def test_it_prints_each_studys_gain_and_draws_their_fronts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, high = study(tmp_path / "low", 0.4), study(tmp_path / "high", 0.8)
    assert main([str(low), str(high), "--out", str(tmp_path / "fronts.svg")]) == 0
    said = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (said[0], *said[2:4])]
    first, second = (dict(zip(cells[0], row, strict=True)) for row in cells[1:])
    assert (first["study"], first["gain"], first["significant"]) == ("low", "0", "no")
    assert (second["study"], second["on the front"], second["crop passes"]) == ("high", "10", "1k")
    assert float(second["gain"]) == pytest.approx(3 * float(first["hypervolume"]), abs=1e-3), "twice as far both ways"
    assert second["significant"] == "yes"
    assert "low" in (tmp_path / "fronts.svg").read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["low", "nothing"], "nothing: holds no study"),
        (["low", "other"], "other: its objectives are"),
        (["low", "--out", "low/study.yaml/fronts.png"], "cannot be written"),
        (["low", "--out", "fronts.xyz"], "cannot be written"),
    ],
)
def test_what_cannot_be_compared_or_written_is_refused_in_one_line(
    tmp_path: Path, words: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study(tmp_path / "low", 0.4)
    write_config(tmp_path / "low", StudyConfig(name="low"))
    (tmp_path / "other").mkdir()
    write_config(tmp_path / "other", StudyConfig(name="other", objectives={"flops": "minimize"}))
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1


def test_operating_points_are_counted_beside_their_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, curves = study(tmp_path / "older", 0.4), tmp_path / "curves"
    curves.mkdir()
    write_config(curves, StudyConfig(name="curves"))
    trial = TrialFolder(curves, 0)
    trial.open({})
    trial.write_rows(curve(0, (0.01, 0.6, 0.1), (0.1, 0.5, 0.3)).rows)
    assert main([str(older), str(curves)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:4]
    counts = [[cell.strip() for cell in line.split("|")[2:5]] for line in lines]
    assert counts == [["10", "10", "–"], ["1", "1", "2"]], "finished trials, those on the front, operating points"

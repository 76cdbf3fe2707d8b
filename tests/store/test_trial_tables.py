import csv
import io
from pathlib import Path

from made_by_hand import CONDITIONAL, curve, record, study

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.types import Scalar
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.layout import TRIALS
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import tabled_points, trials_table

KEY = "evaluation.head.l2"
TRIAL = curve(3, (0.01, 0.6, 0.1), (0.1, 0.5, 0.3))
POINTS = TRIAL.each_point(study().objectives)


def rows(records: list[TrialRecord], config: StudyConfig | None = None) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(trials_table(config or study(), records).csv())))


def test_an_operating_point_is_a_row_with_its_strength_and_its_own_accuracies() -> None:
    weak, strong = rows(POINTS)
    assert weak["trial_id"] == strong["trial_id"] == "trial_00003"
    assert [(row[KEY], row["clean_accuracy"], row["robust_accuracy"]) for row in (weak, strong)] == [
        ("0.01", "0.6", "0.1"),
        ("0.1", "0.5", "0.3"),
    ]
    assert weak["crop_passes"] == "100", "costs are those of the trial, as they were written"
    table = trials_table(study(), POINTS)
    assert table.headings()[table.names.index(KEY)] == "L2"
    assert table.shown()[1][table.names.index(KEY)] == "0.1"


def test_a_trial_is_one_row_at_its_balanced_point_without_a_column_of_strengths() -> None:
    (row,) = rows([TRIAL])
    assert KEY not in row
    assert (row["clean_accuracy"], row["robust_accuracy"]) == ("0.5", "0.3")
    assert list(row) == list(rows([record(3)])[0])


def test_beside_operating_points_an_older_trial_has_no_strength() -> None:
    assert [row[KEY] for row in rows([record(1), *POINTS])] == ["", "0.01", "0.1"]


def test_a_searched_strength_has_one_column(tmp_path: Path) -> None:
    config = study(space={KEY: {"float": [0.001, 1], "log": True}})
    trial = TrialRecord(0, {KEY: 0.25}, curve(0, (0.25, 0.6, 0.1)).rows, "finished")
    table = trials_table(config, trial.each_point(config.objectives))
    assert table.names.count(KEY) == 1
    assert [row[KEY] for row in table.rows] == [0.25]
    (tmp_path / TRIALS).write_text(table.csv())
    assert tabled_points(config, tmp_path) == {0: {KEY: 0.25}}


def test_a_key_of_another_component_is_empty_and_null_is_a_value(tmp_path: Path) -> None:
    config = study(space=CONDITIONAL, trial={"crops": {"views": 2}})
    points: list[dict[str, Scalar]] = [
        {"optimizer.trust_coefficient": None, "loss.name": "emp_ssl", "loss.temperature": 0.2},
        {"optimizer.trust_coefficient": 0.005, "loss.name": "nt_xent", "loss.temperature": 0.2},
    ]
    records = [TrialRecord(n, point, record(n).rows, "finished") for n, point in enumerate(points)]
    first, second = rows(records, config)
    assert [first[key] for key in config.space] == ["", "emp_ssl", ""]
    assert [second[key] for key in config.space] == ["0.005", "nt_xent", "0.2"]
    shown = [line[-3:] for line in trials_table(config, records).shown()]
    assert shown == [["null", "emp_ssl", "–"], ["0.005", "nt_xent", "0.2"]]

    (tmp_path / TRIALS).write_text(trials_table(config, records).csv())
    read = tabled_points(config, tmp_path)
    space = SearchSpace(config)
    assert [space.identity(read[n]) for n in (0, 1)] == [space.identity(point) for point in points]
    assert read[1] == points[1]
    damaged = trials_table(config, records).csv().replace("nt_xent,0.2", "nt_xent,")
    (tmp_path / TRIALS).write_text(damaged)
    assert set(tabled_points(config, tmp_path)) == {0}, "its temperature is lost"

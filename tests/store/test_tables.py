import csv
import io
import math
from typing import Any

import pytest

from cfamc_ray.store.tables import Column, Table, metric_column, setting_column

ROWS: list[dict[str, Any]] = [
    {"trial": 7, "clean_accuracy": 0.123456, "crops.views": 4, "perturbation.epsilon": 8 / 255},
    {"trial": 11, "clean_accuracy": None, "crops.views": 16, "perturbation.epsilon": 4 / 255},
]
COLUMNS = [
    Column("trial"),
    metric_column("clean_accuracy"),
    setting_column("crops.views"),
    setting_column("perturbation.epsilon"),
]
TABLE = Table("made", "Made by hand", COLUMNS, ROWS)


def test_csv_keeps_every_digit_and_leaves_what_is_missing_empty() -> None:
    first, second = csv.DictReader(io.StringIO(TABLE.csv()))
    assert float(first["clean_accuracy"]) == 0.123456
    assert float(first["perturbation.epsilon"]) == 8 / 255
    assert second["clean_accuracy"] == ""


def test_a_person_reads_rounded_values_short_headings_and_a_dash() -> None:
    assert TABLE.headings() == ["trial", "clean accuracy", "views", "epsilon"]
    assert TABLE.shown() == [["7", "12.3%", "4", "8/255"], ["11", "–", "16", "4/255"]]


def test_keys_that_end_alike_keep_their_whole_names() -> None:
    assert Table("", "", [setting_column(key) for key in ("a.epochs", "b.epochs", "c.views")], []).headings() == [
        "a.epochs",
        "b.epochs",
        "views",
    ]


def test_markdown_and_latex_have_a_line_for_each_row() -> None:
    lines = TABLE.markdown().splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == TABLE.shown()[0]
    assert len(lines) == 4
    latex = TABLE.latex()
    assert r"12.3\%" in latex
    assert r"\toprule" in latex
    assert latex.count(r"\\") == 3


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        (metric_column("robust_accuracy", "mean"), 0.5, "50.0%"),
        (metric_column("robust_accuracy", "optimism"), -0.014, "-1.4%"),
        (Column("front_probability", unit="fraction"), 0.84, "84.0%"),
        (metric_column("autoattack", "low"), 0.02, "2.0%"),
        (metric_column("crop_passes"), 48_000, "48k"),
        (metric_column("train_seconds"), 97.1, "1 min 37 s"),
        (Column("epochs"), 4, "4"),
        (Column("significant"), True, "yes"),
        (Column("reason"), "", "–"),
    ],
)
def test_a_cell_is_written_as_its_metric(column: Column, value: object, shown: str) -> None:
    assert column.show(value) == shown


def test_a_column_with_words_is_text() -> None:
    failed = {"status": "failed", "reason": "diverged: the loss is not finite in epoch 3", "epochs": 3, "base": None}
    rows: list[dict[str, Any]] = [failed, {"status": "finished", "base": None}]
    table = Table("t", "", [Column(name) for name in ("status", "reason", "epochs", "base")], rows)
    assert table.kinds() == ["text", "long text", "number", "number"]


def test_rows_are_sorted_by_finite_numbers_alone() -> None:
    columns = [Column("change"), Column("sure"), Column("name")]
    cells = [{"change": value, "sure": True, "name": "a"} for value in (0.5, 3, math.nan, math.inf, None)]
    assert Table("made", "", columns, cells).numbers() == [[value, None, None] for value in (0.5, 3, None, None, None)]

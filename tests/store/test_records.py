import csv
import io
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from made_by_hand import record, row, study

from cfamc_ray.config.errors import InputError
from cfamc_ray.host.files import write_text
from cfamc_ray.metrics import costs
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.layout import trial_name
from cfamc_ray.store.records import (
    TrialFolder,
    TrialRecord,
    read_config,
    read_trials,
    write_config,
)
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.store.trial_tables import trials_table

POINT = {"crops.views": 4, "perturbation.epsilon": 8 / 255, "encoder.norm": "group", "perturbation.carry": True}


def test_a_trial_survives_being_written_and_read(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 7)
    assert folder.read() is None
    folder.open(POINT)
    assert folder.read() == TrialRecord(7, POINT, [], "running")
    rows = [row(1, loss=-3.5, device="cpu"), row(2, done=True)]
    folder.write_rows(rows[:1])
    assert folder.read() == TrialRecord(7, POINT, rows[:1], "running")
    folder.write_rows(rows)
    assert folder.read() == TrialRecord(7, POINT, rows, "finished")
    assert (tmp_path / "trial_00007").is_dir()


@pytest.mark.parametrize("status", ["failed", "stopped", "infeasible"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_how_a_trial_ended_is_read_with_its_reason(tmp_path: Path, status: Status, epochs: int) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open(POINT)
    folder.write_rows([row(1)] * epochs)
    folder.close(status, "the loss is not finite")
    assert folder.read() == TrialRecord(0, POINT, [row(1)] * epochs, status, "the loss is not finite")


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_where_a_trial_was_taken_over_from_is_kept(tmp_path: Path, status: Status) -> None:
    folder = TrialFolder(tmp_path, 3)
    folder.open(POINT, source="earlier/trial_00007")
    folder.write_rows([row(1, done=status == "finished")])
    if status == "stopped":
        folder.close(status, "fell behind")
    found = folder.read()
    assert found is not None
    assert (found.source, found.status) == ("earlier/trial_00007", status)
    folder.open(POINT)
    assert folder.read() == replace(found, source="")


@pytest.mark.parametrize(
    ("status", "source", "counts"),
    [
        ("running", "", True),
        ("finished", "", True),
        ("stopped", "", True),
        ("failed", "", True),
        ("infeasible", "", False),
        ("finished", "earlier/trial_00007", False),
        ("stopped", "earlier/trial_00007", False),
    ],
)
def test_the_budget_pays_for_all_but_refused_and_imported_trials(status: Status, source: str, counts: bool) -> None:
    assert TrialRecord(0, POINT, [], status, source=source).counts is counts


def test_closing_a_trial_that_never_began_makes_no_folder(tmp_path: Path) -> None:
    TrialFolder(tmp_path, 0).close("failed", "never began")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_in_the_file_and_missing_when_read(tmp_path: Path, value: float) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open(POINT)
    folder.write_rows([row(1, done=True, robust_accuracy=value)])
    (line,) = (folder.path / "epochs.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["robust_accuracy"] is None
    found = folder.read()
    assert found is not None
    assert math.isnan(found.value("robust_accuracy"))
    assert found.value("clean_accuracy") == 0.5
    (cells,) = trials_table(study(), [found]).rows
    assert cells["robust_accuracy"] is None


@pytest.mark.parametrize("metric", ["never_reported", "device", "clean_accuracy"])
def test_a_missing_metric_is_nan_and_never_zero(metric: str) -> None:
    assert math.isnan(TrialRecord(0, POINT).value(metric))
    assert math.isnan(TrialRecord(0, POINT, [row(1, clean_accuracy=None, device="cpu")]).value(metric))


def test_metrics_are_those_after_the_last_epoch() -> None:
    found = TrialRecord(0, POINT, [row(1, flops=1), row(2, flops=2)])
    assert found.values(["flops", "epoch"]) == [2.0, 2.0]


def test_trials_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    numbers = [100_000, 3, 99_999, 0, 123_456]
    for number in numbers:
        TrialFolder(tmp_path, number).open(POINT)
    assert [found.number for found in read_trials(tmp_path)] == sorted(numbers)
    assert [found.trial_id for found in read_trials(tmp_path)][:2] == ["trial_00000", "trial_00003"]
    assert trial_name(100_000) == "trial_100000"


def test_half_written_files_and_empty_folders_do_not_disturb(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 1)
    folder.open(POINT)
    folder.write_rows([row(1)])
    for name in ("trial.json", "epochs.jsonl", "outcome.json"):
        (folder.path / f"{name}.partial").write_text('{"nu')
    (tmp_path / "trial_00002").mkdir()
    (tmp_path / "trial_00002" / "trial.json.partial").write_text("{")
    (tmp_path / "study.yaml.partial").write_text("name: [")
    assert read_trials(tmp_path) == [TrialRecord(1, POINT, [row(1)], "running")]


def test_a_folder_without_trials_has_none(tmp_path: Path) -> None:
    assert read_trials(tmp_path) == read_trials(tmp_path / "nothing") == []


def test_a_folder_that_only_looks_like_a_trial_does_not_disturb(tmp_path: Path) -> None:
    TrialFolder(tmp_path, 3).open(POINT)
    (tmp_path / "trial_00003.bak").mkdir()
    assert [found.number for found in read_trials(tmp_path)] == [3]


class Poison:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_reading_never_unpickles(tmp_path: Path) -> None:
    sign = tmp_path / "unpickled"
    poison = pickle.dumps(Poison(sign))
    folder = TrialFolder(tmp_path, 0)
    folder.open(POINT)
    folder.write_rows([row(1)])
    config = study(space={key: {"constant": value} for key, value in POINT.items()})
    write_config(tmp_path, config)
    for path in (tmp_path / "searcher.pkl", folder.path / "params.pkl", folder.checkpoint, folder.encoder):
        path.write_bytes(poison)
    assert len(read_trials(tmp_path)) == 1
    assert read_config(tmp_path) == config
    assert not sign.exists()
    pickle.loads(poison)  # noqa: S301
    assert sign.exists()


def test_a_study_survives_being_noted(tmp_path: Path) -> None:
    config = study(question="Überlebt ε?", constraints=["crops.views <= 30"])
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config


def test_a_folder_that_holds_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no study \(there is no study.yaml in it\)"):
        read_config(tmp_path)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old and long")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old and long"
    write_text(path, "new ε")
    assert path.read_text(encoding="utf-8") == "new ε"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_the_table_has_a_column_for_everything_that_is_promised() -> None:
    config = study(objectives={"robust_accuracy": "maximize", "flops": "minimize"})
    table = trials_table(config, [record(0), TrialRecord(1, {}, [], "failed", "out of memory, twice")])
    others = [cost for cost in costs() if cost != "flops"]
    columns = ["trial_id", "status", "reason", "epochs", "robust_accuracy", "flops", *others, *config.space]
    assert table.names == list(table.rows[0]) == columns
    assert [*table.rows[1], *config.space] == columns, "it has no point"
    assert list(table.rows[1].values())[:4] == ["trial_00001", "failed", "out of memory, twice", 0]
    assert set(list(table.rows[1].values())[4:]) == {None}


def test_a_table_survives_as_csv_with_empty_cells_for_what_is_missing() -> None:
    table = trials_table(study(), [record(0), TrialRecord(1, {}, [], "failed", 'said "no", twice')])
    read = list(csv.DictReader(io.StringIO(table.csv())))
    assert [list(cells) for cells in read] == [table.names] * 2
    assert [cells["reason"] for cells in read] == ["", 'said "no", twice']
    assert read[1]["clean_accuracy"] == read[1]["crops.views"] == ""
    assert float(read[0]["perturbation.epsilon"]) == 8 / 255
    assert "\r" not in table.csv()


def test_a_trial_that_ended_before_the_word_to_stop_came_is_finished(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open({})
    folder.write_rows([{"epoch": 1, "done": True}])
    assert not folder.closed
    folder.close("stopped", "fell behind")
    record = folder.read()
    assert folder.closed
    assert record is not None
    assert (record.status, record.reason) == ("finished", "")


def test_the_kind_and_origin_of_a_reason_are_kept_beside_its_words(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open(POINT)
    ended = TrialRecord(0, POINT, []).ended_by("failed", StopReason("error", "ValueError: no", "ValueError at a.py:3"))
    folder.close(ended.status, ended.reason, ended.kind, ended.origin)
    assert json.loads(folder.outcome_file.read_text()) == {
        "status": "failed",
        "reason": "ValueError: no",
        "kind": "error",
        "origin": "ValueError at a.py:3",
    }
    assert folder.read() == ended


def test_an_outcome_of_no_known_kind_is_damaged(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open(POINT)
    write_text(folder.outcome_file, json.dumps({"status": "failed", "reason": "", "kind": "odd"}) + "\n")
    assert [found.why for found in folder.damaged()] == ["gives a reason of no known kind"]

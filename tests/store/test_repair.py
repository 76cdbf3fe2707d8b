"""Damage of every kind in a study's folder: it is found, kept, and nothing else is touched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damaging import DAMAGES, files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_by_hand import row, study
from safetensors.torch import save_file

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.effects import find_effects
from cfamc_ray.front.front import find_front
from cfamc_ray.front.growth import find_growth, find_spending
from cfamc_ray.front.recommendations import advise
from cfamc_ray.store.environment import read_environment
from cfamc_ray.store.images import check_same, note
from cfamc_ray.store.records import (
    TrialFolder,
    TrialRecord,
    damaged_records,
    read_config,
    read_trials,
    write_config,
)
from cfamc_ray.store.repair import damaged_files, renew_untested, repair, set_damaged_aside
from cfamc_ray.store.tested import PointTest
from cfamc_ray.store.trial_tables import tabled_points, trials_table

CONFIG = study()
FILES = ["trial.json", "epochs.jsonl", "outcome.json", "test.json", "checkpoint.pt", "encoder.safetensors"]
nothing: Callable[[], dict[int, dict[str, Any]]] = dict
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def point(number: int) -> dict[str, Any]:
    return {"crops.views": number + 2, "perturbation.epsilon": 8 / 255}


def make(folder: Path) -> Path:
    """A study of four trials: finished and tested, finished, stopped, running."""
    folder.mkdir(exist_ok=True)
    write_config(folder, CONFIG)
    (folder / "environment.json").write_text('{"versions": {}}\n')
    (folder / "images.json").write_text('{"data": {"digest": "abc", "path": ""}}\n')
    for number, status in enumerate(["finished", "finished", "stopped", "running"]):
        trial = TrialFolder(folder, number)
        trial.open(point(number))
        trial.write_rows([row(1), row(2, done=status == "finished")])
        if status == "finished":
            save_file({"weight": torch.arange(40.0)}, trial.encoder, metadata={"encoder": "{}"})
        if status == "stopped":
            trial.close("stopped", "fell behind")
        if status == "running":
            torch.save({"weight": torch.arange(40.0)}, trial.checkpoint)
    TrialFolder(folder, 0).add_test(PointTest(None, {"images": 9}, {"none": 0.5}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "study")


def owner(file: str) -> int:
    """A trial that has such a file."""
    return {"outcome.json": 2, "checkpoint.pt": 3, "epochs.jsonl": 1}.get(file, 0)


def test_a_whole_study_has_no_damage(folder: Path) -> None:
    before = files(folder)
    assert damaged_files(folder) == damaged_records(folder) == []
    assert repair(folder, nothing) == []
    assert files(folder) == before


@pytest.mark.parametrize("file", [*FILES, "study.yaml", "environment.json", "images.json"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_damaged_is_found_and_kept_and_all_else_untouched(file: str, kind: str, folder: Path) -> None:
    path = folder / f"trial_{owner(file):05d}" / file if file in FILES else folder / file
    whole = files(folder)
    DAMAGES[kind](path)
    before, bad = files(folder), path.read_bytes() if path.exists() else None
    an_object = kind == "other" and file == "environment.json"
    done = set_damaged_aside(folder)
    if bad is None or an_object:
        assert done == []
        assert files(folder) == before
        return
    (sentence,) = done
    kept = path.with_name(f"{file}.damaged")
    assert sentence.startswith(f"{path}: damaged (")
    assert f"kept as {kept.name}" in sentence
    after = files(folder)
    assert after.pop(str(kept.relative_to(folder))) == bad
    whole.pop(str(path.relative_to(folder)))
    assert after == whole
    assert set_damaged_aside(folder) == []


@given(content=st.binary(max_size=300), file=st.sampled_from([*FILES, "study.yaml", "images.json"]))
@quick
def test_whatever_bytes_a_file_holds_the_others_are_read(
    content: bytes, file: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make(tmp_path_factory.mktemp("bytes") / "study")
    number = owner(file) if file in FILES else None
    path = folder / file if number is None else folder / f"trial_{number:05d}" / file
    known = {record.number: record for record in read_trials(folder)}
    path.write_bytes(content)
    found = {record.number: record for record in read_trials(folder)}
    assert {n: record for n, record in known.items() if n != number} == {
        n: record for n, record in found.items() if n != number
    }
    repair(folder, lambda: {n: point(n) for n in range(4)})
    assert damaged_files(folder) == []
    assert [record.number for record in read_trials(folder)] == [0, 1, 2, 3]


@given(content=json_values, file=st.sampled_from(["trial.json", "epochs.jsonl", "outcome.json", "test.json"]))
@quick
def test_whatever_a_json_file_holds_a_study_is_analysed(
    content: Any, file: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make(tmp_path_factory.mktemp("json") / "study")
    (folder / "trial_00000" / file).write_text(json.dumps(content) + "\n")
    analyse(folder)


@given(
    changes=st.dictionaries(
        st.sampled_from(["clean_accuracy", "crop_passes", "train_seconds", "device", "epoch", "done", "flops"]),
        json_values,
        min_size=1,
    )
)
@quick
def test_whatever_a_metric_holds_a_study_is_analysed(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make(tmp_path_factory.mktemp("metric") / "study")
    (folder / "trial_00000" / "epochs.jsonl").write_text(json.dumps({**row(1, done=True), **changes}) + "\n")
    analyse(folder)


def analyse(folder: Path) -> None:
    config, records = read_config(folder), read_trials(folder)
    assert {record.number for record in records} >= {1, 2, 3}
    find_front(config, records)
    find_effects(config, records)
    find_growth(config, records)
    find_spending(records)
    advise(config, records, budget=1e6)
    trials_table(config, records).csv()
    TrialFolder(folder, 0).read_tests()


@pytest.mark.parametrize(
    "content",
    [[], {"data": 3}, {"data": {"digest": 3}}, {"data": [1]}, {"evaluation.transfer": None}],
    ids=str,
)
def test_noted_images_of_another_shape_are_no_note(content: Any, folder: Path) -> None:
    (folder / "images.json").write_text(json.dumps(content))
    check_same(folder, {"data": "another"}, config=CONFIG)
    note(folder, {"data": "abc"}, config=CONFIG)
    assert json.loads((folder / "images.json").read_text()) == {"data": {"digest": "abc", "path": ""}}
    assert read_environment(folder) == {"versions": {}}


class TestRecords:
    @pytest.mark.parametrize(
        "content",
        [
            {"number": 1, "point": point(0)},
            {"number": 0, "point": {"crops.veiws": 3}},
            {"number": 0, "point": {**point(0), "seed": 1}},
            {"number": 0, "point": {**point(0), "crops.views": [2]}},
            {"number": 0, "point": point(0), "source": 3},
        ],
        ids=str,
    )
    def test_a_point_of_another_trial_or_space_is_damage(self, content: dict[str, Any], folder: Path) -> None:
        path = folder / "trial_00000" / "trial.json"
        path.write_text(json.dumps(content))
        assert [record.number for record in read_trials(folder)] == [1, 2, 3]
        assert [found.path for found in damaged_records(folder)] == [path]

    @pytest.mark.parametrize("status", ["running", "finished", "unknown", None])
    def test_only_what_ends_a_trial_otherwise_is_an_outcome(self, status: str | None, folder: Path) -> None:
        TrialFolder(folder, 3).outcome_file.write_text(json.dumps({"status": status, "reason": ""}))
        assert [record.status for record in read_trials(folder)] == ["finished", "finished", "stopped", "running"]
        assert [found.path.name for found in damaged_records(folder)] == ["outcome.json"]

    @pytest.mark.parametrize("value", ["high", [0.5], {"mean": 1}])
    def test_a_metric_that_is_no_number_is_damage(self, value: object, folder: Path) -> None:
        trial = TrialFolder(folder, 0)
        trial.write_rows([row(1), row(2, done=True, clean_accuracy=value)])
        assert [found.path for found in damaged_records(folder)] == [trial.epochs_file]

    def test_an_accuracy_that_is_no_number_is_no_test(self, folder: Path) -> None:
        trial = TrialFolder(folder, 0)
        trial.test_file.write_text('{"none": "0.5"}')
        assert trial.read_tests() == {}
        assert [found.path for found in damaged_records(folder)] == [trial.test_file]

    def test_a_study_file_that_was_cut_short_is_not_another_study(self, folder: Path) -> None:
        path = folder / "study.yaml"
        lines = path.read_text().splitlines(keepends=True)
        for end in range(len(lines)):
            path.write_text("".join(lines[:end]))
            assert [found.path for found in damaged_records(folder)] == [path], lines[:end]
        path.write_text("".join(lines)[:-1])
        assert [found.path for found in damaged_records(folder)] == [path]

    def test_a_note_that_is_missing_beside_others_is_told(self, folder: Path) -> None:
        (folder / "trial_00001" / "trial.json").unlink()
        (folder / "study.yaml").unlink()
        assert [(found.path.name, found.why) for found in damaged_records(folder)] == [
            ("study.yaml", "missing"),
            ("trial.json", "missing"),
        ]

    def test_a_folder_where_no_trial_began_is_no_damage(self, folder: Path) -> None:
        (folder / "trial_00007").mkdir()
        (folder / "trial_00007" / "params.json").write_text("{}")
        assert damaged_records(folder) == []
        assert repair(folder, nothing) == []
        assert (folder / "trial_00007").is_dir()


class TestRepair:
    def test_a_lost_point_is_asked_for_and_written_again(self, folder: Path) -> None:
        before = read_trials(folder)
        for number, damage in ((0, "zeros"), (2, "missing")):
            DAMAGES[damage](folder / f"trial_{number:05d}" / "trial.json")
        done = repair(folder, lambda: {number: point(number) for number in range(9)})
        assert [line.split(": ")[1] for line in done][1:] == ["written again"] * 2
        assert read_trials(folder) == before

    def test_points_are_only_asked_for_where_one_is_lost(self, folder: Path) -> None:
        (folder / "trial_00001" / "epochs.jsonl").write_bytes(b"")
        assert len(repair(folder, lambda: pytest.fail("it was asked"))) == 1

    def test_a_trial_whose_point_nothing_knows_is_kept_beside(self, folder: Path) -> None:
        before = files(folder / "trial_00001")
        DAMAGES["zeros"](folder / "trial_00001" / "trial.json")
        *_, done = repair(folder, nothing)
        assert "its point is lost; kept as trial_00001.damaged" in done
        kept = files(folder / "trial_00001.damaged")
        assert {name: kept[name] for name in before if name != "trial.json"} == {
            name: content for name, content in before.items() if name != "trial.json"
        }
        assert [record.number for record in read_trials(folder)] == [0, 2, 3]

    def test_a_stopped_trial_without_the_rows_it_was_judged_by_goes_on(self, folder: Path) -> None:
        DAMAGES["truncated"](folder / "trial_00002" / "epochs.jsonl")
        assert [record.status for record in read_trials(folder)][2] == "running"
        assert len(repair(folder, nothing)) == 2
        record = TrialFolder(folder, 2).read()
        assert record is not None
        assert (record.status, record.rows) == ("running", [])
        assert {path.name for path in (folder / "trial_00002").iterdir()} == {
            *("trial.json", "epochs.jsonl.damaged", "outcome.json.damaged"),
        }

    def test_a_failed_trial_whose_rows_are_damaged_stays_failed(self, folder: Path) -> None:
        TrialFolder(folder, 3).close("failed", "diverged")
        DAMAGES["zeros"](folder / "trial_00003" / "epochs.jsonl")
        repair(folder, nothing)
        assert [(r.status, r.reason, len(r.rows)) for r in read_trials(folder)][3] == ("failed", "diverged", 0)

    @pytest.mark.parametrize("file", ["epochs.jsonl", "outcome.json"])
    def test_a_trial_that_was_taken_over_is_set_aside_as_a_whole(self, file: str, folder: Path) -> None:
        number = 2 if file == "outcome.json" else 1
        path = folder / f"trial_{number:05d}"
        TrialFolder(folder, number).open(point(number), source="earlier/trial_00004")
        DAMAGES["zeros"](path / file)
        before = files(path)
        (done,) = repair(folder, nothing)
        assert done.startswith(f"{path}: was warm-started from earlier/trial_00004 and is no longer whole; kept as ")
        assert "--warm-start" in done
        assert files(path.with_name(f"{path.name}.damaged")) == before
        assert not path.exists()

    def test_a_whole_trial_that_was_taken_over_stays(self, folder: Path) -> None:
        TrialFolder(folder, 1).open(point(1), source="earlier/trial_00004")
        before = files(folder)
        assert repair(folder, nothing) == []
        assert files(folder) == before


class TestWeights:
    @given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
    @quick
    def test_a_changed_byte_of_a_checkpoint_ends_nothing(
        self, place: float, value: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = make(tmp_path_factory.mktemp("zip") / "study")
        path = TrialFolder(folder, 3).checkpoint
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] = value
        path.write_bytes(content)
        damaged_files(folder)

    def test_a_changed_weight_of_a_checkpoint_is_found(self, folder: Path) -> None:
        path = TrialFolder(folder, 3).checkpoint
        content = path.read_bytes()
        weights = torch.arange(40.0).numpy().tobytes()
        assert weights in content
        path.write_bytes(content.replace(weights, weights[::-1]))
        (found,) = damaged_files(folder)
        assert (found.path, found.why) == (path, "checkpoint/data/0 in it is broken")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x05",
            (2**63).to_bytes(8, "little"),
            (2).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[]",
            (20).to_bytes(8, "little") + b'{"a":{"data_offsets"',
            (13).to_bytes(8, "little") + b'{"a":{"b":1}}',
            (7).to_bytes(8, "little") + b'{"a":3}',
            (24).to_bytes(8, "little") + b'{"a":{"data_offsets":1}}',
            (26).to_bytes(8, "little") + b'{"a":{"data_offsets":[1]}}',
        ],
        ids=str,
    )
    def test_what_is_no_safetensors_file_is_found(self, content: bytes, folder: Path) -> None:
        path = TrialFolder(folder, 0).encoder
        path.write_bytes(content)
        assert [found.path for found in damaged_files(folder)] == [path]


class TestUntested:
    @pytest.mark.parametrize("kind", DAMAGES)
    def test_an_untested_trial_without_a_whole_encoder_is_trained_again(self, kind: str, folder: Path) -> None:
        DAMAGES[kind](TrialFolder(folder, 1).encoder)
        before = files(folder / "trial_00001")
        (done,) = renew_untested(folder, [0, 1])
        assert done.startswith(f"{TrialFolder(folder, 1).encoder}: damaged or missing, and not yet tested; ")
        assert [record.status for record in read_trials(folder)] == ["finished", "running", "stopped", "running"]
        after = files(folder / "trial_00001")
        assert after.pop("epochs.jsonl.damaged") == before.pop("epochs.jsonl")
        assert after == before
        assert renew_untested(folder, [0]) == []

    def test_a_tested_trial_needs_no_encoder(self, folder: Path) -> None:
        TrialFolder(folder, 0).encoder.unlink()
        assert renew_untested(folder, [1]) == []


class TestTabledPoints:
    SPACE = {
        "crops.views": {"int": [2, 40]},
        "perturbation.epsilon": {"float": [0, 1]},
        "encoder.norm": {"choice": ["batch", "group"]},
        "perturbation.carry": {"choice": [True, False]},
        "optimizer.trust_coefficient": {"choice": [None, 0.001]},
        "pretraining.epochs": 3,
    }
    POINTS = [
        {
            "crops.views": views,
            "perturbation.epsilon": views / 255,
            "encoder.norm": "group",
            "perturbation.carry": views == 3,
            "optimizer.trust_coefficient": None if views == 4 else 0.001,
            "pretraining.epochs": 3,
        }
        for views in (3, 4)
    ]

    @pytest.fixture
    def config(self, tmp_path: Path) -> StudyConfig:
        config = study(space=self.SPACE)
        records = [TrialRecord(number, point) for number, point in enumerate(self.POINTS)]
        (tmp_path / "trials.csv").write_text(trials_table(config, records).csv())
        return config

    def test_they_are_read_as_they_were(self, config: StudyConfig, tmp_path: Path) -> None:
        found = tabled_points(config, tmp_path)
        assert found == dict(enumerate(self.POINTS))
        assert [list(map(type, point.values())) for point in found.values()] == [
            list(map(type, point.values())) for point in self.POINTS
        ]

    @pytest.mark.parametrize("kind", DAMAGES)
    def test_a_damaged_table_tells_none_that_is_wrong(self, kind: str, config: StudyConfig, tmp_path: Path) -> None:
        DAMAGES[kind](tmp_path / "trials.csv")
        assert tabled_points(config, tmp_path).items() <= dict(enumerate(self.POINTS)).items()

    def test_values_outside_of_the_space_are_none(self, config: StudyConfig, tmp_path: Path) -> None:
        path = tmp_path / "trials.csv"
        path.write_text(path.read_text().replace("group", "layer"))
        assert tabled_points(config, tmp_path) == {}
        assert tabled_points(study(), tmp_path) == {
            n: {**point(n + 1), "perturbation.epsilon": (n + 3) / 255} for n in (0, 1)
        }


def test_a_copy_of_a_trial_under_another_number_is_not_read_as_that_one(folder: Path) -> None:
    shutil.copytree(folder / "trial_00000", folder / "trial_00005")
    assert [record.number for record in read_trials(folder)] == [0, 1, 2, 3]

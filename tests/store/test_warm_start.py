"""Trials that go from one study into another."""

from pathlib import Path
from typing import Any

import pytest
from made_by_hand import row, study

from cfamc_ray.config.errors import InputError
from cfamc_ray.store.records import TrialFolder, read_trials, write_config
from cfamc_ray.store.warm_start import warm_start_from

POINT = {"crops.views": 4, "perturbation.epsilon": 8 / 255}


def make(folder: Path, **given: Any) -> Path:
    """A study with a trial of each kind: finished, stopped, failed, infeasible, running, finished elsewhere."""
    folder.mkdir()
    write_config(folder, study(**{"name": "earlier", **given}))
    for number, status in enumerate(["finished", "stopped", "failed", "infeasible", "running", "finished"]):
        trial = TrialFolder(folder, number)
        trial.open({**POINT, "crops.views": 30 if number == 5 else 4 + number})
        done = status == "finished"
        trial.write_rows([row(1, trial_id=trial.path.name), row(2, trial_id=trial.path.name, done=done, flops=number)])
        if done:
            trial.encoder.write_bytes(b"weights of %d" % number)
        elif status == "running":
            trial.checkpoint.write_bytes(b"state")
        else:
            trial.close(status, f"it was {status}")  # type: ignore[arg-type]
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "earlier")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "later").mkdir()
    return tmp_path / "later"


def test_finished_and_stopped_trials_are_copied_with_rows_reason_and_encoder(source: Path, folder: Path) -> None:
    assert warm_start_from(study(name="later"), folder, source) == 3
    found, origin = read_trials(folder), {record.number: record for record in read_trials(source)}
    assert [record.source for record in found] == [f"earlier/trial_0000{number}" for number in (0, 1, 5)]
    for record, number in zip(found, (0, 1, 5), strict=True):
        assert (record.point, record.status, record.reason) == (
            origin[number].point,
            origin[number].status,
            origin[number].reason,
        )
        assert [shown["trial_id"] for shown in record.rows] == [record.trial_id] * 2
        assert record.value("flops") == number
        assert not record.counts
        encoder = TrialFolder(folder, record.number).encoder
        assert (encoder.read_bytes() if encoder.exists() else None) == (
            None if number == 1 else b"weights of %d" % number
        )


def test_the_source_stays_as_it_is(source: Path, folder: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    warm_start_from(study(name="later"), folder, source)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_they_come_after_the_trials_that_are_there_and_only_once(source: Path, folder: Path) -> None:
    config = study(name="later")
    TrialFolder(folder, 7).open(POINT)
    assert warm_start_from(config, folder, source) == 3
    assert [record.number for record in read_trials(folder)] == [7, 8, 9, 10]
    assert warm_start_from(config, folder, source) == 0
    begun = TrialFolder(source, 4)
    begun.write_rows([row(1, done=True)])  # meanwhile the earlier study has gone on
    assert warm_start_from(config, folder, source) == 1
    assert [record.source for record in read_trials(folder)][4:] == ["earlier/trial_00004"]


def test_several_studies_may_be_taken_over(source: Path, folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", name="other")
    assert [warm_start_from(study(name="later"), folder, each) for each in (source, other, source)] == [3, 3, 0]
    assert len({record.source for record in read_trials(folder)}) == 6


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"space": {"crops.views": {"int": [2, 4]}, "perturbation.epsilon": {"float": [0, 0.1]}}}, ["0"]),
        ({"space": {"crops.views": {"choice": [5, 30]}, "perturbation.epsilon": 8 / 255}}, ["1", "5"]),
        ({"space": {"crops.views": {"int": [2, 40]}, "perturbation.epsilon": 4 / 255}}, []),
        ({"constraints": ["crops.views < 30"]}, ["0", "1"]),
        ({"budget": {"trials": 1}, "question": "Again?", "search": {"sampler": "random"}}, ["0", "1", "5"]),
    ],
    ids=str,
)
def test_points_outside_the_space_or_its_conditions_are_left_out(
    source: Path, folder: Path, given: dict[str, Any], taken: list[str]
) -> None:
    assert warm_start_from(study(name="later", **given), folder, source) == len(taken)
    assert [record.source[-1] for record in read_trials(folder)] == taken


@pytest.mark.parametrize(
    ("given", "different"),
    [
        ({"objectives": {"flops": "minimize"}}, "objectives"),
        ({"trial": {"seed": 1}}, "trial"),
        ({"base": "emp-ssl-crops-pgd"}, "base, trial"),
        ({"space": {"crops.views": {"int": [2, 40]}}}, "space"),
        (
            {"trial": {"pretraining": {"epochs": 3}}, "space": {"crops.views": {"int": [2, 40]}}},
            "trial, space",
        ),
    ],
    ids=str,
)
def test_a_study_whose_trials_mean_something_else_is_refused(
    source: Path, folder: Path, given: dict[str, Any], different: str
) -> None:
    with pytest.raises(InputError) as caught:
        warm_start_from(study(name="later", **given), folder, source)
    assert str(caught.value) == f"--warm-start {source}: is a study of something else (different: {different})"
    assert list(folder.iterdir()) == []


def test_a_folder_without_a_study_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        warm_start_from(study(), folder, tmp_path / "nothing")

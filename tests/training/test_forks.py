"""Trials that begin with the first epochs of another trial of their study."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trials import tiny_config, tiny_splits

from cfamc_ray.config.stages import fork_of, stages_of, trunk_of, trunk_part, without_trunk
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.layout import TRUNKS
from cfamc_ray.store.records import TrialFolder, TrialRecord
from cfamc_ray.training import recording
from cfamc_ray.training.recording import Row, run_recorded

CHANGE = ["pretraining.replays", "perturbation.epsilon"]
TRUNK = {"pretraining.replays": 1, "perturbation.epsilon": 2 / 255}
FORK = fork_of(TRUNK, {"pretraining.replays": 3, "perturbation.epsilon": 8 / 255}, 2)
COSTS = ("crop_passes", "flops", "train_seconds", "eval_seconds")


@pytest.fixture(autouse=True)
def tiny_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "load_splits", lambda *_, **__: tiny_splits())


def study(**search: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "forks",
            "search": {"fork": {"at": [0.5, 0.75], "change": CHANGE}} | search,
            "trial": tiny_config(**{"pretraining.epochs": 4}).model_dump(exclude_unset=True),
            "space": {"pretraining.replays": {"int": [1, 4]}, "perturbation.epsilon": {"float": [0, "16/255"]}},
        }
    )


def rows_of(folder: Path, number: int, point: dict[str, Any]) -> Iterator[Row]:
    return run_recorded(study(), TrialFolder(folder, number), point, DistributedContext())


def train(folder: Path, number: int, point: dict[str, Any], epochs: int = 4) -> None:
    """Train a trial, as if its process were killed if it should not reach its end."""
    for row in rows_of(folder, number, point):
        if row["epoch"] == epochs:
            break


def record(folder: Path, number: int) -> TrialRecord:
    found = TrialFolder(folder, number).read()
    assert found is not None
    return found


def reproducible(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what a machine needed for it."""
    measured = ("seconds", "second", "bytes", "id")
    return {name: value for name, value in row.items() if name.split("_")[-1] not in measured}


def assert_same(one: Path, other: Path, number: int = 1) -> None:
    ours, theirs = (load_encoder(TrialFolder(folder, number).encoder).state_dict() for folder in (one, other))
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name
    rows = [[reproducible(row) for row in record(folder, number).rows] for folder in (one, other)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fork trained from the beginning, without another trial."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "load_splits", lambda *_, **__: tiny_splits())
        train(folder, 1, FORK)
    return folder


def test_a_fork_pays_for_its_own_epochs_and_ends_bit_for_bit_as_if_it_had_trained_them_all(
    tmp_path: Path, alone: Path
) -> None:
    train(tmp_path, 0, TRUNK)
    train(tmp_path, 1, FORK)
    assert_same(tmp_path, alone)
    trunk, fork, whole = record(tmp_path, 0), record(tmp_path, 1), record(alone, 1)
    assert (fork.trunk, fork.trunk_epochs) == ("trial_00000", 2)
    assert (whole.trunk, whole.trunk_epochs) == ("", 0)
    assert whole.paid("crop_passes") == whole.value("crop_passes") == fork.value("crop_passes") == 2 * 24 + 2 * 72
    assert fork.paid("crop_passes") == 2 * 72
    for cost in COSTS:
        assert fork.paid(cost) == pytest.approx(fork.value(cost) - trunk.rows[1][cost])
        assert 0 < fork.paid(cost) < fork.value(cost)


@pytest.mark.parametrize("killed_after", [3])
def test_a_killed_fork_and_a_killed_trunk_resume_bit_for_bit(tmp_path: Path, alone: Path, killed_after: int) -> None:
    train(tmp_path, 0, TRUNK, epochs=3)
    train(tmp_path, 1, FORK, epochs=killed_after)
    train(tmp_path, 1, FORK)
    train(tmp_path, 0, TRUNK)
    assert_same(tmp_path, alone)
    assert (record(tmp_path, 1).trunk, record(tmp_path, 1).trunk_epochs) == ("trial_00000", 2)
    other = tmp_path / "other"
    train(other, 0, TRUNK)
    assert_same(tmp_path, other, 0)


@pytest.mark.parametrize("damage", ["cut off", "missing", "of another trial"])
def test_without_a_whole_trunk_a_fork_trains_all_epochs_itself(
    tmp_path: Path, alone: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    point = {**TRUNK, "perturbation.epsilon": 4 / 255} if damage == "of another trial" else TRUNK
    train(tmp_path, 0, point)
    for path in TrialFolder(tmp_path, 0).path.glob(TRUNKS):
        if damage == "missing":
            path.unlink()
        elif damage == "cut off":
            path.write_bytes(path.read_bytes()[:100])
    train(tmp_path, 1, FORK)
    assert_same(tmp_path, alone)
    fork = record(tmp_path, 1)
    assert fork.trunk == ""
    assert fork.paid("crop_passes") == fork.value("crop_passes")
    assert ("cannot be read" in capsys.readouterr().out) == (damage == "cut off")


def test_a_fork_whose_own_checkpoint_is_damaged_begins_from_its_trunk_again(tmp_path: Path, alone: Path) -> None:
    train(tmp_path, 0, TRUNK)
    train(tmp_path, 1, FORK, epochs=3)
    TrialFolder(tmp_path, 1).checkpoint.write_bytes(b"damaged")
    train(tmp_path, 1, FORK)
    assert_same(tmp_path, alone)
    assert record(tmp_path, 1).trunk_epochs == 2


def test_trunks_are_kept_where_forks_may_leave_and_dropped_with_the_weights(tmp_path: Path) -> None:
    train(tmp_path, 0, TRUNK)
    train(tmp_path, 1, FORK)
    trunk, fork = TrialFolder(tmp_path, 0), TrialFolder(tmp_path, 1)
    assert sorted(path.name.split("_")[-1] for path in trunk.path.glob(TRUNKS)) == ["2.pt", "3.pt"]
    assert not list(fork.path.glob(TRUNKS))
    trunk.drop_weights()
    left = {path.name for path in trunk.path.iterdir() if not path.name.startswith("events.out")}
    assert left == {"trial.json", "epochs.jsonl"}


def test_the_point_of_a_fork_tells_its_trunk() -> None:
    assert FORK == {
        "pretraining.replays": 3,
        "perturbation.epsilon": 8 / 255,
        "trunk.epochs": 2,
        "trunk.pretraining.replays": 1,
        "trunk.perturbation.epsilon": 2 / 255,
    }
    assert trunk_of(FORK) == TRUNK == trunk_of(TRUNK)
    assert without_trunk(FORK) | trunk_part(FORK) == FORK
    assert stages_of(FORK) == [{"epochs": 2, "values": TRUNK}]
    assert stages_of(TRUNK) == []
    with pytest.raises(ValueError, match=r"trunk\.epochs is missing"):
        stages_of({"trunk.pretraining.replays": 1})
    trial = study().trial_at(FORK)
    assert trial.fingerprint_until(2) == study().trial_at(TRUNK).fingerprint
    assert [(epochs, stage.pretraining.replays) for epochs, stage in trial.schedule] == [(2, 1), (2, 3)]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"fork": {"change": ["encoder.width"]}}, "fork.change: encoder.width cannot change in the middle of a trial"),
        ({"fork": {"change": ["crops.views"]}}, "search.fork.change: crops.views is not a key of space"),
        ({"fork": {"change": CHANGE, "at": [0, 0.5]}}, "at must lie between 0 and 1"),
        ({"sampler": "random"}, "fork: sampler random cannot use it; choose front"),
        ({"fork": {"change": []}}, "at least 1 item"),
    ],
)
def test_forks_that_cannot_be_are_refused(search: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        study(**search)


def test_a_study_of_trials_with_stages_has_no_forks() -> None:
    tree = study().model_dump(mode="json")
    tree["trial"]["stages"] = [{"epochs": 1, "values": {}}]
    with pytest.raises(ValueError, match=r"search\.fork: a trial with stages cannot be forked"):
        StudyConfig.model_validate(tree)

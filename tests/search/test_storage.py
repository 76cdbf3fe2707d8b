"""Optuna's storage, damaged, of another version, or locked: derived from the trials, so made anew from them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from asking import ended, search_of, study_of
from damaging import DAMAGES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cfamc_ray.search.storage as storage_module
from cfamc_ray.config.errors import InputError
from cfamc_ray.search.bookkeeping import open_study, reconcile
from cfamc_ray.search.storage import open_storage, repair_storage, stored_points
from cfamc_ray.store.records import TrialRecord

CONFIG = study_of()
STATES = ["COMPLETE", "FAIL", "PRUNED", "RUNNING"]


def point(number: int) -> dict[str, object]:
    return {
        "crops.views": 2 + number,
        "pretraining.replays": 1,
        "perturbation.epsilon": 8 / 255,
        "encoder.norm": "batch",
        "pretraining.epochs": 4,
    }


RECORDS = [
    ended(CONFIG, 0, point(0)),
    ended(CONFIG, 1, point(1), "failed"),
    ended(CONFIG, 2, point(2), "stopped"),
    TrialRecord(3, point(3), []),
]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The storage of four trials: finished, failed, stopped, running."""
    folder = tmp_path_factory.mktemp("storage")
    made_anew(folder)
    return (folder / "optuna.db").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "optuna.db").write_bytes(content)
    return tmp_path


def made_anew(folder: Path) -> None:
    """As a driver does: from the trials' records."""
    study = open_study(CONFIG, open_storage(folder))
    assert reconcile(study, CONFIG, RECORDS) == [3]
    study = optuna.load_study(study_name=CONFIG.name, storage=open_storage(folder))
    assert [trial.state.name for trial in study.trials] == STATES
    assert study.trials[0].values == RECORDS[0].values(CONFIG.objectives)


def test_a_whole_storage_is_kept_and_knows_the_points(folder: Path, content: bytes) -> None:
    assert repair_storage(CONFIG, folder, RECORDS) == []
    assert stored_points(CONFIG, folder) == {number: point(number) for number in range(4)}
    assert (folder / "optuna.db").read_bytes() == content


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_set_aside_and_made_anew(kind: str, folder: Path) -> None:
    path = folder / "optuna.db"
    DAMAGES[kind](path)
    bad = path.read_bytes() if path.exists() else None
    assert stored_points(CONFIG, folder) == {}
    done = repair_storage(CONFIG, folder, RECORDS)
    if kind in ("empty", "missing"):  # SQLite takes an empty file for an empty database
        assert done == []
    else:
        (sentence,) = done
        assert sentence.startswith(f"{path}: cannot be read (")
        assert sentence.endswith("; kept as optuna.db.damaged, and created again from the trials")
        assert (folder / "optuna.db.damaged").read_bytes() == bad
        assert not path.exists()
    made_anew(folder)
    assert repair_storage(CONFIG, folder, RECORDS) == []


@given(place=st.floats(0, 1, exclude_max=True), length=st.integers(1, 300), filling=st.binary(min_size=1, max_size=3))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_it_is_damaged_the_search_goes_on(
    place: float, length: int, filling: bytes, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    start = int(place * len(content))
    bad = content[:start] + (filling * length)[:length] + content[start + length :]
    (folder / "optuna.db").write_bytes(bad)
    repair_storage(CONFIG, folder, RECORDS)
    search = search_of(CONFIG, open_storage(folder), RECORDS)
    assert {record.number for record in search.records.values()} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE version_info SET schema_version = 99",
        "UPDATE alembic_version SET version_num = 'v99.0.0.a'",
        "DELETE FROM alembic_version",
        "DROP TABLE trials",
        "DROP TABLE trial_params",
        "UPDATE trials SET state = 'ENDED'",
        "UPDATE studies SET study_name = x'ff'",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trial_params SET distribution_json = '[1]'",
        "UPDATE trial_params SET param_value = 'many'",
        "UPDATE trial_values SET value = 'high'",
        "UPDATE trial_values SET value_type = 'x'",
        "UPDATE trials SET number = 7",
        "DELETE FROM trials WHERE number = 1",
        "UPDATE study_directions SET direction = 'UP'",
        "DELETE FROM study_directions",
        "UPDATE study_system_attributes SET value_json = '{'",
        "UPDATE trial_system_attributes SET value_json = '{'",
    ],
)
def test_one_of_another_version_or_content_is_made_anew_or_of_use(change: str, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "optuna.db")) as connection, connection:
        connection.execute(change)
    done = repair_storage(CONFIG, folder, RECORDS)
    assert len(done) <= 1
    if done:
        assert done[0].endswith("kept as optuna.db.damaged, and created again from the trials")
        made_anew(folder)
    else:
        search_of(CONFIG, open_storage(folder), RECORDS)


def test_one_of_another_schema_version_is_set_aside(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "optuna.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    assert len(repair_storage(CONFIG, folder, RECORDS)) == 1


@contextmanager
def locked(path: Path, kind: str) -> Iterator[None]:
    """As another program at work on it does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"BEGIN {kind}")
        yield
        other.execute("ROLLBACK")


def test_one_that_another_program_keeps_locked_is_told_and_not_set_aside(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "BUSY_SECONDS", 0.05)
    path = folder / "optuna.db"
    with locked(path, "EXCLUSIVE"):
        for ask in (lambda: repair_storage(CONFIG, folder, RECORDS), lambda: stored_points(CONFIG, folder)):
            with pytest.raises(InputError, match=r"optuna.db: cannot be opened \(database is locked\); is another pro"):
                ask()
    assert [found.name for found in folder.iterdir()] == ["optuna.db"]
    assert path.read_bytes() == content
    assert repair_storage(CONFIG, folder, RECORDS) == []


@pytest.mark.parametrize("kind", ["DEFERRED", "IMMEDIATE"])
def test_one_that_another_program_reads_or_is_about_to_write_can_be_read(kind: str, folder: Path) -> None:
    with locked(folder / "optuna.db", kind):
        assert repair_storage(CONFIG, folder, RECORDS) == []
        assert len(stored_points(CONFIG, folder)) == 4


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").mkdir()
    with pytest.raises(InputError, match=r"optuna.db: cannot be opened \(unable to open database file\)"):
        repair_storage(CONFIG, tmp_path, RECORDS)


def test_one_that_says_that_a_trial_ended_which_goes_on_is_made_anew(folder: Path) -> None:
    going_on = [TrialRecord(0, point(0), []), *RECORDS[1:]]
    (sentence,) = repair_storage(CONFIG, folder, going_on)
    assert sentence.startswith(f"{folder / 'optuna.db'}: says that trial_00000 ended; kept as optuna.db.damaged")
    assert reconcile(open_study(CONFIG, open_storage(folder)), CONFIG, going_on) == [0, 3]


def test_a_journal_goes_with_the_file_that_it_is_of(folder: Path) -> None:
    DAMAGES["zeros"](folder / "optuna.db")
    for ending in ("-journal", "-wal", "-shm"):
        (folder / f"optuna.db{ending}").write_bytes(b"of another file")
    assert len(repair_storage(CONFIG, folder, RECORDS)) == 1
    assert [found.name for found in folder.iterdir()] == ["optuna.db.damaged"]
    made_anew(folder)


def test_a_study_of_another_name_is_left_alone(folder: Path, content: bytes) -> None:
    other = CONFIG.model_copy(update={"name": "other"})
    assert stored_points(other, folder) == {}
    assert repair_storage(other, folder, [TrialRecord(0, point(0), [])]) == []
    assert (folder / "optuna.db").read_bytes() == content

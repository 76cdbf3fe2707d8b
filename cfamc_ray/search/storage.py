"""Optuna's storage of a study. It is derived data: if missing, damaged or of another version, it is created again."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.stages import trunk_part, without_trunk
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.host.files import set_aside
from cfamc_ray.space.encoding import constants
from cfamc_ray.store.layout import STORAGE
from cfamc_ray.store.records import TrialRecord

UNREADABLE = (sqlite3.Error, SQLAlchemyError, OptunaError, RuntimeError, ValueError, LookupError, TypeError)
"""Errors of SQLite, SQLAlchemy and Optuna for a file that is no database, is damaged, or has another version."""
CLOSED = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
)
"""SQLite's codes for a file that cannot be opened or written; its content may be intact."""
BUSY_SECONDS = 60
"""Seconds to wait for a database that another process keeps locked."""


def open_storage(folder: Path) -> BaseStorage:
    """Open the storage of a study folder, which optuna-dashboard can open at the same time.

    The path is passed to SQLite directly: as part of a URL, its %, ?, # and braces would have a meaning.
    """
    return RDBStorage(
        "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(folder / STORAGE, timeout=BUSY_SECONDS)}
    )


def repair_storage(config: StudyConfig, folder: Path, records: Sequence[TrialRecord]) -> list[str]:
    """Set the storage aside if it cannot be read, or if an unfinished trial has ended in it.

    Args:
        config: config of the study.
        folder: folder of the study.
        records: records of its trials.

    Returns:
        Sentences that describe what was done.

    Raises:
        InputError: if another process keeps it locked, or it cannot be opened or written.
    """
    try:
        stored = _stored_trials(config, folder)
    except _DamagedStorageError as error:
        why = f"cannot be read ({error})"
    else:
        ended = {trial.number for trial in stored if trial.state.is_finished()}
        unfinished = [record.trial_id for record in records if not record.ended and record.number in ended]
        if not unfinished:
            return []
        why = f"says that {', '.join(unfinished)} ended"
    kept = set_aside(folder / STORAGE)
    for journal in ("-journal", "-wal", "-shm"):
        (folder / f"{STORAGE}{journal}").unlink(missing_ok=True)  # of the file that was set aside
    return [f"{folder / STORAGE}: {why}; kept as {kept.name}, and created again from the trials"]


def stored_points(config: StudyConfig, folder: Path) -> Mapping[int, Mapping[str, Any]]:
    """The points in the storage, by trial number; empty if it cannot be read.

    Raises:
        InputError: as `repair_storage`.
    """
    try:
        stored = _stored_trials(config, folder)
    except _DamagedStorageError:
        return {}
    points = {
        trial.number: {**constants(config.space), **trial.params, **trunk_part(trial.user_attrs)} for trial in stored
    }
    return {number: point for number, point in points.items() if without_trunk(point).keys() == config.space.keys()}


class _DamagedStorageError(Exception):
    """The storage is damaged and cannot be read."""


def _stored_trials(config: StudyConfig, folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of the storage; empty if there is no file, or no study of this name in it.

    Raises:
        _DamagedStorageError: if it cannot be read.
        InputError: if it cannot be opened or written; its content may be intact.
    """
    path = folder / STORAGE
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            lost = connection.execute("PRAGMA foreign_key_check").fetchone() if answer == "ok" else None
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        if lost:
            raise sqlite3.DatabaseError(f"{lost[0]} refers to a row that is missing in {lost[2]}")
        storage = open_storage(folder)
        if config.name not in optuna.get_all_study_names(storage):
            return []
        study = optuna.load_study(study_name=config.name, storage=storage)
        if not study.directions:
            raise ValueError("lacks the directions of its objectives")
        return study.get_trials(deepcopy=False)
    except UNREADABLE as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        if _code(error) in CLOSED:
            remedy = "is another program using it, or is its disk full or read-only?"
            raise InputError(f"{path}: cannot be opened ({why}); {remedy}") from None
        raise _DamagedStorageError(why) from None


def _code(error: BaseException | None) -> int | None:
    """SQLite's primary code of an error, which SQLAlchemy and Optuna wrap in their own errors."""
    while error is not None and not isinstance(error, sqlite3.Error):
        error = error.__cause__
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF

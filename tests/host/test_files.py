"""Files that are whole whatever happens, and damaged ones that are kept beside."""

import errno
import os
import re
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from damaging import files
from safetensors import SafetensorError
from test_train_command import tiny_study

from cfamc_ray.data.splits import load_splits
from cfamc_ray.host.files import (
    ABANDONED_SECONDS,
    DiskFullError,
    is_disk_full,
    remove_abandoned,
    replacing,
    set_aside,
    write_text,
)
from cfamc_ray.method.encoder import save_encoder
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.training.trainer import initial_encoder
from cfamc_ray.training.trial import Trial

Write = Callable[[Path], None]


def checkpoint(path: Path) -> None:
    config = tiny_study().trial
    Trial(config, load_splits(config.data)).save(path)


def encoder(path: Path) -> None:
    config = tiny_study().trial
    save_encoder(path, initial_encoder(config), config.encoder)


def rows(path: Path) -> None:
    folder = TrialFolder(path.parent, 0)
    folder.path, folder.epochs_file = path.parent, path
    folder.write_rows([{"epoch": 1, "done": True}])


WRITES: list[Write] = [lambda path: write_text(path, "new"), rows, checkpoint, encoder]
every_write = pytest.mark.parametrize("write", WRITES, ids=["text", "rows", "checkpoint", "encoder"])


@every_write
def test_data_reach_the_disk_before_their_name_and_the_name_before_anything_else(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        calls.append(("flush", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append(("rename", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write(path)
    _, partial = calls[0]
    assert re.fullmatch(re.escape(str(path)) + r"\.[0-9a-f]{8}\.partial", partial)
    assert calls == [("flush", partial), ("rename", partial, str(path)), ("flush", str(tmp_path))]
    assert path.read_bytes() != b"old"


@every_write
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    write: Write, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert files(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_what_is_interrupted_half_way_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert files(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_is_written_to_all_the_same(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "file", "new")
    assert files(tmp_path) == {"file": b"new"}


def test_what_is_set_aside_never_takes_the_place_of_what_was(tmp_path: Path) -> None:
    names = []
    for content in (b"first", b"second", b"third"):
        (tmp_path / "trial.json").write_bytes(content)
        names.append(set_aside(tmp_path / "trial.json").name)
    assert names == ["trial.json.damaged", "trial.json.damaged-1", "trial.json.damaged-2"]
    assert list(files(tmp_path).values()) == [files(tmp_path)[name] for name in files(tmp_path)]
    assert [files(tmp_path)[name] for name in names] == [b"first", b"second", b"third"]


def test_a_folder_is_set_aside_with_all_that_it_holds(tmp_path: Path) -> None:
    (tmp_path / "trial_00001").mkdir()
    (tmp_path / "trial_00001" / "a").write_bytes(b"1")
    assert set_aside(tmp_path / "trial_00001") == tmp_path / "trial_00001.damaged"
    assert files(tmp_path) == {"trial_00001.damaged/a": b"1"}


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (DiskFullError("x"), True),
        (sqlite3.OperationalError("database or disk is full"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("shapes"), False),
    ],
    ids=str,
)
def test_a_full_disk_is_known_by_whatever_library_says_it(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full


def test_torch_and_safetensors_say_that_a_disk_is_full(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with pytest.raises((OSError, RuntimeError)) as caught:
        torch.save({"a": torch.zeros(1 << 20)}, "/dev/full")
    assert is_disk_full(caught.value)


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", [str(writer) * 1000 for writer in range(4)]

    def write(text: str) -> None:
        for _ in range(25):
            write_text(path, text)

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert path.read_text() in texts
    assert list(files(tmp_path)) == ["file"]


def test_what_a_killed_process_left_is_removed_later_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / "trial_00000").mkdir()
    for name, age in (("a.1.partial", ABANDONED_SECONDS + 60), ("a.2.partial", 0), ("a", ABANDONED_SECONDS + 60)):
        path = tmp_path / "trial_00000" / name
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    remove_abandoned(tmp_path)
    assert {path.name for path in (tmp_path / "trial_00000").iterdir()} == {"a.2.partial", "a"}

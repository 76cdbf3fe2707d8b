"""One driver at a time, also where the other one was killed."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cfamc_ray.config.errors import InputError
from cfamc_ray.store.lock import only_driver

HOLD = """
import subprocess, sys, time
from pathlib import Path
from cfamc_ray.store.lock import only_driver
with only_driver(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""
TRY = """
import sys
from pathlib import Path
from cfamc_ray.cli.command import exit_code
from cfamc_ray.store.lock import only_driver
def work():
    with only_driver(Path(sys.argv[1])):
        print("at work")
    return 0
sys.exit(exit_code(work))
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder, and has one of its own below it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        os.kill(child, signal.SIGKILL)


def attempt(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", TRY, str(folder)], capture_output=True, text=True, check=False)


def test_a_second_process_is_refused_with_the_first_one_s_number_until_that_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        said = attempt(tmp_path)
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
        assert said.stderr.startswith(f"{tmp_path}: another process is at work on it (process {first.pid} on ")
        assert "name another folder with --out" in said.stderr
        with pytest.raises(InputError, match=rf"process {first.pid} on "), only_driver(tmp_path):
            pytest.fail("there are two")
        first.send_signal(signal.SIGKILL)
        first.wait()
        with only_driver(tmp_path):  # what it had started still lives, as Ray's processes may
            assert (tmp_path / "driver.lock").read_text().startswith(f"process {os.getpid()} on ")
            assert f"process {os.getpid()} on " in attempt(tmp_path).stderr


def test_a_folder_is_held_once_within_a_process_too_and_let_go_of_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    for _ in range(2):
        with only_driver(folder), pytest.raises(InputError, match="another process"), only_driver(folder):
            pytest.fail("there are two")
    with pytest.raises(ZeroDivisionError), only_driver(folder):
        _ = 1 // 0
    with only_driver(folder):
        assert len((folder / "driver.lock").read_text().splitlines()) == 1


def test_other_folders_are_free(tmp_path: Path) -> None:
    with only_driver(tmp_path / "a"), only_driver(tmp_path / "b"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot be written \(.*name another folder"), only_driver(place):
            pytest.fail("it is a file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=os.strerror)
def test_a_file_system_without_locks_is_refused_as_what_it_is(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    refused = rf"its file system keeps no locks \({os.strerror(number)}\).* name a folder on a local disk with --out"
    with pytest.raises(InputError, match=refused), only_driver(tmp_path):
        pytest.fail("nothing keeps others out")


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
@pytest.mark.parametrize(
    ("noted", "owner"),
    [
        (b"process 7 on there\n", "process 7 on there"),
        (b"\0" * 20, "which has just begun"),  # as a crash of the machine can leave a file that was not flushed
        (b"", "which has just begun"),
        (b"process 7\0\0 on \xff\x1b[2Jthere\n", "process 7 on \ufffd[2Jthere"),
    ],
)
def test_the_one_who_holds_it_is_named_in_one_line_whatever_the_file_holds(
    tmp_path: Path, noted: bytes, owner: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "driver.lock").write_bytes(noted)
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError) as refused, only_driver(tmp_path):
        pytest.fail("another process has it")
    assert f"another process is at work on it ({owner}); wait for its end" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "driver.lock").read_bytes() == noted


def test_what_an_earlier_crash_left_in_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "driver.lock").write_bytes(b"\0" * 5000)
    with only_driver(tmp_path):
        assert (tmp_path / "driver.lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_full_disk_leaves_the_owner_without_a_name_and_the_folder_held(tmp_path: Path) -> None:
    (tmp_path / "driver.lock").symlink_to("/dev/full")
    with only_driver(tmp_path), pytest.raises(InputError, match="another process"), only_driver(tmp_path):
        pytest.fail("there are two")

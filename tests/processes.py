"""The commands as processes that a test can wait for and kill."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def kill_marked(mark: str, name: str = "") -> int:
    """SIGKILL for every process that has a mark in its environment, or for those of a name; how many."""
    killed = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = mark.encode() in (process / "environ").read_bytes()
            if ours and name.encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                killed += 1
    return killed


def wait_until(constraint: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not constraint():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


class Command:
    """The tune command as a process, with all that Ray starts below it.

    Its study goes to `runs` beside the space, unless `out` names another folder.
    """

    def __init__(self, space: Path, *options: str, out: Path | None = None) -> None:
        self.mark = f"cfamc-test-{uuid.uuid4().hex}"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cfamc_ray.tune", "--space", str(space)),
                *("--out", str(out or space.parent / "runs"), *options),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CFAMC_TEST_MARK": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, *, seconds: float = 900) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output

    def kill(self, name: str = "") -> int:
        """SIGKILL for the driver and every process that inherited its environment, or for those of a name; how many."""
        return kill_marked(self.mark, name)

    def running(self) -> bool:
        return self.process.poll() is None

"""A message for a command that Ray ends from C++, which leaves Python no time to print one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from cfamc_ray.host.process import before_end

WAIT = "import sys; sys.stdin.buffer.read(1) or print(sys.argv[1], flush=True)"
"""Reads a byte from this process; if the process ends before, prints the message."""


@contextmanager
def last_words(person: TextIO, log: Path) -> Iterator[None]:
    """Run a small process that prints a message if this process ends without one.

    Args:
        person: stream for the message.
        log: file with Ray's output.
    """
    text = (
        "\nThe command has ended without a message, because Ray ends it if one of Ray's own processes dies; Ray's "
        f"output is in {log}.\nNo finished epoch is lost. Re-run the command with --resume to resume."
    )
    waiting = subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-I", "-S", "-c", WAIT, text],
        stdin=subprocess.PIPE,
        stdout=person.fileno(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # not ended by Ctrl-C or with the command's group
    )

    def dismiss() -> None:
        with suppress(OSError):  # the process was killed
            waiting.communicate(b".")

    before_end(dismiss)
    try:
        yield
    finally:
        dismiss()

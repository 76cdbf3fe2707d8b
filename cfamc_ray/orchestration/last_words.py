"""What is said of a command that Ray ends: its C++ code leaves Python no time for that."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from cfamc_ray.host.process import before_end

WAIT = "import sys; sys.stdin.buffer.read(1) or print(sys.argv[1], flush=True)"
"""Reads a byte from this process, or finds that it is gone."""


@contextmanager
def last_words(person: TextIO, log: Path) -> Iterator[None]:
    """A small process that waits for the end of this one, and says so where it came without a word.

    Args:
        person: where it is said.
        log: where Ray has said why.
    """
    text = (
        "\nThe command has ended without a word, as Ray ends it where one of Ray's own processes has died; what Ray "
        f"said is in {log}.\nNo finished epoch is lost. Re-run the command with --resume to resume."
    )
    waiting = subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-I", "-S", "-c", WAIT, text],
        stdin=subprocess.PIPE,
        stdout=person.fileno(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # neither Ctrl-C nor what ends the command's group ends it
    )

    def dismiss() -> None:
        with suppress(OSError):  # it was killed
            waiting.communicate(b".")

    before_end(dismiss)
    try:
        yield
    finally:
        dismiss()

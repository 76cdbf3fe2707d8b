"""One driver at a time: two on the same study folder would train the same trials into the same files."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfamc_ray.config.errors import InputError


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold a folder as long as this process lives; the system lets go of it even after a kill.

    Raises:
        InputError: where another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "driver.lock").open("a+")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise InputError(
                f"{folder}: another process is at work on it ({file.read().strip() or 'which has just begun'}); "
                "wait for its end, or name another folder with --out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield

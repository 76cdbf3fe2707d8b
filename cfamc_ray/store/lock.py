"""One driver at a time: two on the same study folder would train the same trials into the same files."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.store.layout import LOCK

HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""Errors of flock where another process has the lock; all others come from the file system."""
LONGEST = 500
"""Bytes that are read of what the owner wrote about itself."""


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder within the block; the system releases it even after a kill.

    Raises:
        InputError: where another process holds it, its file system keeps no locks, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+b", buffering=0)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in HELD:
                raise InputError(
                    f"{folder}: its file system keeps no locks ({error.strerror}), so two commands could work there at "
                    "once: name a folder on a local disk with --out, and keep a copy here with --mirror file://PATH"
                ) from None
            file.seek(0)
            raise InputError(
                f"{folder}: another process is at work on it ({_owner(file.read(LONGEST))}); "
                "wait for its end, or name another folder with --out"
            ) from None
        with suppress(OSError):  # a full disk: the folder is held all the same
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def driver_of(folder: Path) -> str | None:
    """The process that works on a folder, as it described itself; None if there is none, or it cannot be known."""
    try:
        with (folder / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask do not see each other
            except OSError as error:
                return _owner(file.read(LONGEST)) if error.errno in HELD else None
    except OSError:
        pass
    return None


def _owner(content: bytes) -> str:
    """The process that holds a lock, as it described itself."""
    text = content.decode(errors="replace")
    return "".join(filter(str.isprintable, text)).strip() or "which has just begun"

"""Files that a reader, a crash or a power cut never leaves half written, and damaged ones that are set aside."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk is full, or a user's quota."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there replaces the file, durably, once the block ends.

    The data are flushed to disk before the rename and the folder after it, so the disk holds the old file or the new
    one, whenever the power fails.

    Args:
        path: of the file; its folder exists.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that a full disk ends names no file
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as `replacing` does."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Bring a file's data, or a folder's names, to disk; some network file systems cannot, and say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


class DiskFullError(Exception):
    """There is no room for a file; what could not be written is no fault of what wrote it."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a user's quota, is full; libraries say so in words of their own."""
    if isinstance(error, DiskFullError) or getattr(error, "errno", None) in FULL:
        return True
    words = (os.strerror(errno.ENOSPC), "disk is full", "PytorchStreamWriter failed writing", "unexpected pos")
    return any(word in str(error) for word in words)


def is_text(name: str) -> bool:
    """Whether a name can be written down: a file system takes any bytes for one, text files and Ray take UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that nothing reads it and nothing of it is lost.

    Returns:
        its new path: ``NAME.damaged``, or with a number where that exists.
    """
    names = (f"{path.name}.damaged{f'-{number}' if number else ''}" for number in count())
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    path.rename(target)
    return target

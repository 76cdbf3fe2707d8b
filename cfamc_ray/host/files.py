"""Atomic writes that survive a crash or a power cut, and damaged files that are set aside."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from secrets import token_hex

PARTIAL = ".partial"
"""Ending of half-written files."""
ABANDONED_SECONDS = 3600.0
"""Age after which a half-written file is taken for one of a process that was killed."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Codes of a full disk, and of an exceeded quota."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; the file written there replaces `path` durably when the block ends.

    The data are flushed to disk before the rename, and the folder after it, so the disk holds the old or the new file
    whenever the power fails.

    Args:
        path: path of the file, in an existing folder.
    """
    # With a name of its own: two processes may write the same file, and each must find its own when it renames it.
    partial = path.with_name(f"{path.name}.{token_hex(4)}{PARTIAL}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a write on a full disk names no file
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left half-written in a folder and the folders in it."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file's present content a second name, without a copy where the file system can; `target` is replaced."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, partial)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as `replacing` does."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Flush a file's data, or a folder's names, to disk; some network file systems do not support this."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


class DiskFullError(Exception):
    """The disk is full, so a file could not be written."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that a disk or a user's quota is full; libraries use their own messages."""
    if isinstance(error, DiskFullError) or getattr(error, "errno", None) in FULL:
        return True
    words = (os.strerror(errno.ENOSPC), "disk is full", "PytorchStreamWriter failed writing", "unexpected pos")
    return any(word in str(error) for word in words)


def is_text(name: str) -> bool:
    """Whether a file name can be encoded in UTF-8, as text files and Ray need; file systems allow any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is not read but kept.

    Returns:
        Its new path: ``NAME.damaged``, with a number if that exists.
    """
    names = (f"{path.name}.damaged{f'-{number}' if number else ''}" for number in count())
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    path.rename(target)
    return target

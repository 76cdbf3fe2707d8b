"""A copy of a study folder in an object store, kept up to date while a command works on it."""

import errno
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from cfamc_ray.config.errors import InputError
from cfamc_ray.host.files import PARTIAL, replacing
from cfamc_ray.host.process import before_end
from cfamc_ray.store.layout import CELLS, MLFLOW, STORAGE, TRIAL

logger = logging.getLogger(__name__)

SECONDS = 60.0
"""Time between two copies."""
NEVER_REMOVED = (TRIAL, CELLS)
"""Files that a folder never loses: one that lacks them is another folder than the one that was copied."""
LEFT_OUT = (f"{STORAGE}*", f"{MLFLOW}*", "*.lock", "*.pkl", "experiment_state-*", "search_gen_state-*", f"*{PARTIAL}")
"""Half-written files, and files that a command can make again from the trials."""


class Mirror:
    """Files of a folder and their copies.

    Args:
        folder: of the study.
        uri: of the object store and the folder in it, such as s3://bucket/studies.

    Raises:
        InputError: where the store cannot be reached, or holds trials that the folder lacks, which is not empty.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        from pyarrow import fs  # noqa: PLC0415 (slow to import, and needed by few)

        self.folder = folder
        parts = urlsplit(uri)
        if parts.scheme and (parts.fragment or (parts.scheme == "file" and parts.query)):
            raise InputError(
                f"--mirror {uri}: the path of a URI ends before ? and #: write %3F and %23, or for a folder of this "
                "machine its whole path, which is taken as it is"
            )
        try:
            self._store, root = fs.FileSystem.from_uri(uri.rstrip("/"))
            self._root = f"{root}/{folder.name}"
            listed = self._store.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        except (OSError, ValueError) as error:
            raise InputError(
                f"--mirror {uri}: no object store can be reached there ({error}); write s3://BUCKET/FOLDER, or the "
                "whole path of a folder"
            ) from None
        there = [Path(file.path.removeprefix(f"{self._root}/")) for file in listed if file.is_file]
        self._sent = dict.fromkeys(there, (0, 0))
        """Time of modification and size of what the copy has."""
        self._seen: set[Path] = set()
        """What the folder has had while this process looked; of the copy only such files are ever removed."""
        lacking = [path for path in there if _matches(path, NEVER_REMOVED) and not (folder / path).exists()]
        if lacking and any(folder.glob("*")):
            raise InputError(
                f"--mirror {uri}: the copy holds {lacking[0].parent}, which {folder} lacks: name an empty folder with "
                "--out to go on from the copy, or another place for this one's"
            )

    def fetch(self) -> int:
        """Download all files of the copy; returns how many.

        Those come last without which a folder is another one: after an interruption it is not taken for the whole.
        """
        for path in sorted(self._sent, key=lambda path: _matches(path, NEVER_REMOVED)):
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                self._store.open_input_stream(f"{self._root}/{path.as_posix()}") as stream,
                replacing(target) as partial,
            ):
                partial.write_bytes(stream.read())
        self._sent = dict(self._local())
        self._seen = set(self._sent)
        return len(self._sent)

    def send(self) -> int:
        """Upload what has changed since the last time and remove what is gone; returns how many files were copied.

        Raises:
            OSError: where the store cannot be reached, or the folder is gone.
        """
        copied, here = 0, dict(self._local())
        if self._seen and not here.keys() & self._seen:
            raise FileNotFoundError(errno.ENOENT, "its files are gone", str(self.folder))
        self._seen |= here.keys()
        for path, state in here.items():
            if self._sent.get(path) != state:
                with suppress(FileNotFoundError):  # a trial has just ended, and its checkpoint is gone
                    content = (self.folder / path).read_bytes()
                    self._store.create_dir(f"{self._root}/{path.parent.as_posix()}".removesuffix("/."))
                    with self._store.open_output_stream(f"{self._root}/{path.as_posix()}") as stream:
                        stream.write(content)
                    self._sent[path] = state
                    copied += 1
        for path in self._sent.keys() & self._seen - here.keys():
            with suppress(FileNotFoundError):
                self._store.delete_file(f"{self._root}/{path.as_posix()}")
            del self._sent[path]
        return copied

    def _local(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for path in sorted(self.folder.rglob("*")):
            if not _matches(path, LEFT_OUT):
                with suppress(FileNotFoundError):
                    state = path.stat()
                    if path.is_file():
                        yield path.relative_to(self.folder), (state.st_mtime_ns, state.st_size)


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in patterns)


@contextmanager
def mirrored(folder: Path, uri: str | None) -> Iterator[None]:
    """Keep a copy of a folder up to date within the block; where the folder is empty, begin from the copy.

    A copy that fails is tried again a minute later; if the last one fails, a warning says so.

    Args:
        folder: of the study.
        uri: as for `Mirror`; None for no copy.

    Raises:
        InputError: as for `Mirror`.
    """
    if uri is None:
        yield
        return
    mirror, over = Mirror(folder, uri), threading.Event()
    if not any(folder.glob("*")):
        mirror.fetch()

    def keep() -> None:
        while not over.wait(SECONDS):
            with suppress(OSError):
                mirror.send()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    before_end(mirror.send)
    try:
        yield
    finally:
        over.set()
        thread.join()
        try:
            mirror.send()
        except OSError as error:
            logger.warning("--mirror %s: the last copy failed (%s); all is in %s", uri, error, folder)

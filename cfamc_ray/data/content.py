"""Digests that identify a data set by its content, independent of its location."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from cfamc_ray.config.data import DataConfig, ImageFolderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.folders import files_in, list_images
from cfamc_ray.data.sources import locate


def content_digest(config: DataConfig, *, folder: Path | None = None) -> str:
    """A digest that is equal for copies of a data set at different locations, and different for other images.

    It covers the bytes of a file, or the relative names and sizes of the files of a folder that are read, or the name
    if there is neither; for the last two also the size to which images are resized.

    Args:
        config: config of the data set.
        folder: as in `read_source`.

    Returns:
        16 hexadecimal digits.

    Raises:
        InputError: if the data set is missing or cannot be read, or its folder has no valid layout.
    """
    path = locate(config, folder)
    resized = [] if config.resized is None else [config.resized]
    if path is None:
        content = [config.name, *resized]
    elif isinstance(config, ImageFolderConfig):
        files = [file for split in list_images(path).splits.values() for file in split]
        content = [*resized, sorted((file.name, file.size) for file in files)]
    elif config.is_folder:
        every = ((file.relative_to(path).as_posix(), file.stat().st_size) for file in files_in(path))
        content = [*resized, sorted(every)]
    else:
        stat = path.stat()
        return _file_digest(path.resolve(), stat.st_size, stat.st_mtime_ns)[:16]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _file_digest(path: Path, _size: int, _modified_ns: int) -> str:
    """Digest of a file, cached by its size and modification time."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None

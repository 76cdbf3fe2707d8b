"""Which images a data set holds, told by their content and not by where they lie."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from cfamc_ray.config.data import DataConfig, ImageFolderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.folders import list_images
from cfamc_ray.data.sources import locate


def content_digest(config: DataConfig, *, folder: Path | None = None) -> str:
    """A digest that is equal for copies of a data set at different places, and another one for other images.

    It covers the bytes of a file; of a folder of images the relative names and sizes of the files that are read; where
    there is neither, the name; and the size to which images are brought when they are read.

    Args:
        config: of the data set.
        folder: as for `read_source`.

    Returns:
        16 hexadecimal digits.

    Raises:
        InputError: where the data set is not there or cannot be read, or its folder is not laid out as one.
    """
    path = locate(config, folder)
    resized = [] if config.resized is None else [config.resized]
    if path is None:
        content = [config.name, *resized]
    elif isinstance(config, ImageFolderConfig):
        files = [file for split in list_images(path).splits.values() for file in split]
        content = [*resized, sorted((file.name, file.size) for file in files)]
    elif config.is_folder:
        every = (file for file in path.rglob("*") if file.is_file())
        content = [*resized, sorted((file.relative_to(path).as_posix(), file.stat().st_size) for file in every)]
    else:
        stat = path.stat()
        return _file_digest(path.resolve(), stat.st_size, stat.st_mtime_ns)[:16]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _file_digest(path: Path, _size: int, _modified_ns: int) -> str:
    """Computed anew unless size and time of modification are those of an earlier call."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None

"""Which images a data set holds, told by their content and not by where they lie."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.folders import list_images
from cfamc_ray.data.sources import locate


def content_digest(config: DataConfig, *, folder: Path | None = None) -> str:
    """A digest that is equal for copies of a data set at different places, and another one for other images.

    It covers the bytes of an .npz file; of a folder of images the relative names and sizes of the files that are
    read, and the image size; of what a library brings along its name and, for digits, the image size.

    Args:
        config: `name`, `path` and `image_size` are read.
        folder: as for `read_source`.

    Returns:
        16 hexadecimal digits.

    Raises:
        InputError: where the data set is not there or cannot be read, or its folder is not laid out as one.
    """
    path = locate(config, folder)
    if path is None:
        content = [config.name, config.image_size] if config.name == "digits" else [config.name]
    elif config.name == "imagefolder":
        files = [file for split in list_images(path).splits.values() for file in split]
        content = [config.image_size, sorted((file.name, file.size) for file in files)]
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

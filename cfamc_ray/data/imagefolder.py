"""A folder of images by class, resized once into arrays that are then memory-mapped.

N images of a split; C = 3 channels, H = W = the image size. Pixels are uint8 from 0 to 255.
"""

import errno
import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap, write_array_header_1_0

from cfamc_ray.config.data import ImageFolderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.decoding import READING_RULES, read_square
from cfamc_ray.data.folders import ImageFile, list_images
from cfamc_ray.data.images import LabelledImages, Source

IMAGES_AT_ONCE = 100
"""Images resized in memory before they are written: few enough for any size, and to stop soon after an error."""
ATTEMPTS = 3
"""Number of attempts to move the arrays to their place while other processes do the same."""

Shapes = Mapping[str, tuple[int, int, int, int]]
"""Shape (N, C, H, W) of each split's array."""
Arrays = Mapping[str, npt.NDArray[Any]]
"""The images_NCHW of each split."""


def read_configured(config: ImageFolderConfig, path: Path, folder: Path) -> Source:
    """Read the folder of images that a config names; arguments as in `DataConfig.build`."""
    return read_imagefolder(path, config.image_size, cache=folder / "imagefolder-cache")


def read_imagefolder(folder: Path, image_size: int, *, cache: Path) -> Source:
    """Open the resized images of a folder; if there are none yet, resize the images first.

    The resized images are identified by the files' names, sizes and modification times, wherever the folder lies.

    Args:
        folder: folder of the images, in a layout of `list_images` and in formats that `read_square` reads.
        image_size: height and width in pixels.
        cache: folder of the resized arrays. Several processes may share it; damaged arrays are created again.

    Raises:
        InputError: if folders or images are missing or unreadable, or the cache cannot be written.
    """
    listed = list_images(folder)
    if listed.left_out:
        warnings.warn(
            f"{folder}: {len(listed.left_out)} files without an image suffix are left out: {listed.left_out[0]}, …",
            stacklevel=2,
        )
    key = _cache_key(image_size, listed.splits)
    cached = cache / hashlib.sha256(key.encode()).hexdigest()
    shapes = {split: (len(files), 3, image_size, image_size) for split, files in listed.splits.items()}
    try:
        arrays = _open(cached, shapes) or _write(cached, key, shapes, listed.splits)
    except OSError as error:
        raise InputError(
            f"{cache}: the resized images ({sum(map(math.prod, shapes.values())) / 1e6:,.0f} MB) cannot be kept there: "
            f"{error.strerror or error}; make room, or name another folder in the environment variable CFAMC_DATA"
        ) from None
    train, test = (
        LabelledImages(torch.from_numpy(arrays[split]), torch.tensor([file.label for file in listed.splits[split]]))
        for split in ("train", "test")
    )
    return Source(train, test, listed.class_names)


def _cache_key(image_size: int, splits: Mapping[str, Sequence[ImageFile]]) -> str:
    """Everything that determines the arrays, as JSON."""
    files = {split: [(file.name, file.size, file.modified_ns) for file in splits[split]] for split in splits}
    return json.dumps({"reading_rules": READING_RULES, "image_size": image_size, "files": files}, indent=1)


def _open(cached: Path, shapes: Shapes) -> Arrays | None:
    """Map the arrays into memory; None if they are missing, truncated or of another shape."""
    try:
        # torch warns about read-only memory, but not about a copy-on-write mapping.
        arrays = {split: open_memmap(cached / f"{split}-images.npy", mode="c") for split in shapes}
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = all(array.shape == shapes[split] and array.dtype == np.uint8 for split, array in arrays.items())
    return arrays if whole else None


def _write(cached: Path, key: str, shapes: Shapes, splits: Mapping[str, Sequence[ImageFile]]) -> Arrays:
    """Write the arrays under a temporary name, so that no process opens incomplete arrays, and open them."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cached.parent, prefix=".partial-") as temporary:
        complete = Path(temporary) / cached.name
        complete.mkdir()
        (complete / "key.json").write_text(key, encoding="utf-8")
        for split, shape in shapes.items():
            with (complete / f"{split}-images.npy").open("wb") as file:
                _write_split(file, shape, splits[split])
                file.flush()
                os.fsync(file.fileno())
        for attempt in range(ATTEMPTS):
            with suppress(OSError):  # exists already: complete, from a faster process, or damaged
                complete.rename(cached)
            if arrays := _open(cached, shapes):
                return arrays
            with suppress(OSError):
                cached.rename(Path(temporary) / f"damaged-{attempt}")
        raise OSError("the existing arrays are damaged and cannot be replaced")


def _write_split(file: BinaryIO, shape: tuple[int, int, int, int], examples: Sequence[ImageFile]) -> None:
    write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    _allocate(file, file.tell() + math.prod(shape))
    resized = partial(read_square, image_size=shape[-1])
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(examples), IMAGES_AT_ONCE):
            paths = [example.path for example in examples[start : start + IMAGES_AT_ONCE]]
            file.writelines(image_CHW.tobytes() for image_CHW in threads.map(resized, paths))


def _allocate(file: BinaryIO, size: int) -> None:
    """Reserve the disk space if the system supports it, so that a full disk fails before the work, not after it."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not supported: writing will fail if the disk is full
            raise

"""A folder of images by class, resized once into files that are then memory-mapped.

N images of a split; C = 3 channels, H = W = the image size. Pixels are uint8 from 0 to 255.
"""

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import torch

from cfamc_ray.config.data import ImageFolderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.decoding import READING_RULES, read_square
from cfamc_ray.data.folders import ImageFile, list_images
from cfamc_ray.data.images import LabelledImages, Source
from cfamc_ray.data.mapped import MappedImages, Shape, header, map_images
from cfamc_ray.host.machine import cores

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 100
"""Images resized in memory before they are written: few enough for any size, and to stop soon after an error."""
ATTEMPTS = 3
"""Number of attempts to move the files to their place while other processes do the same."""
PARTIAL = ".partial-"
"""How the names of folders of unfinished files begin."""
LONG_WORK = 5_000
"""Number of images from which on a message says that they are resized, because it takes longer than a few seconds."""

Shapes = Mapping[str, Shape]
"""Shape (N, C, H, W) of the images of each split."""
Files = Mapping[str, MappedImages]
"""The images of each split."""


def read_configured(config: ImageFolderConfig, path: Path, folder: Path) -> Source:
    """Read the folder of images that a config names; arguments as in `DataConfig.build`."""
    return read_imagefolder(path, config.image_size, cache=folder / "imagefolder-cache")


def read_imagefolder(folder: Path, image_size: int, *, cache: Path) -> Source:
    """Open the resized images of a folder; if there are none yet, resize the images first.

    The resized images are identified by the files' names, sizes and modification times, wherever the folder lies. They
    stay on disk and are read when they are needed, so they may exceed the memory.

    Args:
        folder: folder of the images, in a layout of `list_images` and in formats that `read_square` reads.
        image_size: height and width in pixels.
        cache: folder of the resized images. Several processes may share it: one resizes while the others wait. Damaged
            files are created again.

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
        files = _open(cached, shapes)
        if files is None:
            with _alone(cache):
                files = _open(cached, shapes) or _write(cached, key, shapes, listed.splits)
    except OSError as error:
        raise InputError(
            f"{cache}: the resized images ({sum(map(math.prod, shapes.values())) / 1e6:,.0f} MB) cannot be kept there: "
            f"{error.strerror or error}; make room, or name another folder in the environment variable CFAMC_DATA"
        ) from None
    train, test = (
        LabelledImages(files[split], torch.tensor([file.label for file in listed.splits[split]]))
        for split in ("train", "test")
    )
    return Source(train, test, listed.class_names)


def _cache_key(image_size: int, splits: Mapping[str, Sequence[ImageFile]]) -> str:
    """Everything that determines the resized images, as JSON."""
    files = {split: [(file.name, file.size, file.modified_ns) for file in splits[split]] for split in splits}
    return json.dumps({"reading_rules": READING_RULES, "image_size": image_size, "files": files}, indent=1)


def _open(cached: Path, shapes: Shapes) -> Files | None:
    """Map the files into memory; None if one is missing, incomplete or of another shape."""
    files = {split: map_images(cached / f"{split}-images.npy", shape) for split, shape in shapes.items()}
    whole = {split: images for split, images in files.items() if images is not None}
    return whole if len(whole) == len(files) else None


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait until no other process writes into the cache, and remove what killed processes left there.

    Where the file system has no locks, nothing waits: each process then resizes the images for itself.
    """
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the system releases it even after a kill
            for partial_folder in cache.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial_folder, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def _write(cached: Path, key: str, shapes: Shapes, splits: Mapping[str, Sequence[ImageFile]]) -> Files:
    """Write the files under a temporary name, so that no process opens incomplete ones, and open them."""
    images = sum(N for N, *_ in shapes.values())
    if images >= LONG_WORK:
        logger.warning("%s images are resized, once, on %s cores, into %s", f"{images:,}", cores(), cached.parent)
    with TemporaryDirectory(dir=cached.parent, prefix=PARTIAL) as temporary:
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
            if files := _open(cached, shapes):
                return files
            with suppress(OSError):
                cached.rename(Path(temporary) / f"damaged-{attempt}")
        raise OSError("the existing files are damaged and cannot be replaced")


def _write_split(file: BinaryIO, shape: Shape, examples: Sequence[ImageFile]) -> None:
    file.write(header(shape))
    _allocate(file, file.tell() + math.prod(shape))
    resized = partial(read_square, image_size=shape[-1])
    with ThreadPoolExecutor(cores()) as threads:  # Pillow decodes and resizes without Python's lock
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

"""A folder of images by class, resized once into arrays that are then memory-mapped.

N images of a split; C = 3 channels, H = W = the image size. Pixels are uint8 from 0 to 255.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from cfamc_ray.config.errors import InputError
from cfamc_ray.data.images import LabelledImages, Source
from cfamc_ray.data.stratification import stratified_order

LabelledFile = tuple[Path, int]
ROWS_PER_TASK = 100
"""Images that a thread resizes in one go: enough for few tasks, and few enough to stop soon after an error."""


def read_imagefolder(folder: Path, image_size: int, *, cache: Path) -> Source:
    """Open the resized images of a folder, resizing them first where that was not done yet.

    The folder holds train/CLASS/* and test/CLASS/* (or val/CLASS/*); or CLASS/* alone, of which a stratified fifth
    then is the test split. Hidden files and folders are skipped.

    Args:
        folder: where the images are; anything that Pillow opens.
        image_size: height and width in pixels; the shorter side is resized to it, the longer one cropped to its centre.
        cache: folder of the resized arrays. Several processes may share it.

    Raises:
        InputError: where folders or images are missing or unreadable, or the cache cannot be written.
    """
    splits, classes = _list_splits(folder)
    key = _cache_key(folder, image_size, splits)
    cached = cache / hashlib.sha256(key.encode()).hexdigest()
    if not cached.is_dir():
        try:
            _write_cache(cached, key, splits, image_size)
        except OSError as error:
            raise InputError(f"{cache}: the resized images cannot be written there: {error}") from None
    return Source(_open_split(cached, "train"), _open_split(cached, "test"), classes)


def _list_splits(folder: Path) -> tuple[dict[str, list[LabelledFile]], int]:
    """The files of each split, and the number of classes."""
    if not (folder / "train").is_dir():
        classes = _list_classes(folder)
        files = _labelled(classes)
        order = stratified_order(torch.tensor([label for _, label in files]), seed=0).tolist()
        test_images = math.ceil(len(files) / 5)
        splits = {"train": [files[n] for n in order[test_images:]], "test": [files[n] for n in order[:test_images]]}
        return splits, len(classes)
    test_folder = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test_folder is None:
        raise InputError(f"{folder}: has a folder train, so it needs a folder test or val beside it")
    train_classes, test_classes = _list_classes(folder / "train"), _list_classes(test_folder)
    unpaired = train_classes.keys() ^ test_classes.keys()
    if unpaired:
        raise InputError(
            f"{folder}: train and {test_folder.name} must have the same classes; one lacks {sorted(unpaired)}"
        )
    return {"train": _labelled(train_classes), "test": _labelled(test_classes)}, len(train_classes)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, both in alphabetical order."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; imagefolder needs one with a folder of images for each class")
    classes = {entry.name: _visible(entry) for entry in _visible(folder) if entry.is_dir()}
    if len(classes) < 2:
        raise InputError(f"{folder}: needs a folder of images for each of two classes or more, but has {len(classes)}")
    for name, files in classes.items():
        if not files:
            raise InputError(f"{folder / name}: a class without images")
    return classes


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _labelled(classes: Mapping[str, Iterable[Path]]) -> list[LabelledFile]:
    return [(file, label) for label, files in enumerate(classes.values()) for file in files]


def _cache_key(folder: Path, image_size: int, splits: Mapping[str, Sequence[LabelledFile]]) -> str:
    """All that decides the arrays, as JSON."""
    files = {
        split: [
            (str(file.relative_to(folder)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file, _ in examples
        ]
        for split, examples in splits.items()
    }
    return json.dumps({"folder": str(folder.resolve()), "image_size": image_size, "files": files}, indent=1)


def _write_cache(cached: Path, key: str, splits: Mapping[str, Sequence[LabelledFile]], image_size: int) -> None:
    """Write the arrays under a temporary name, so that no process ever opens half of them."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cached.parent, prefix=".partial-") as partial:
        complete = Path(partial) / cached.name
        complete.mkdir()
        (complete / "key.json").write_text(key, encoding="utf-8")
        for split, examples in splits.items():
            _write_split(complete, split, examples, image_size)
        try:
            complete.rename(cached)
        except OSError:
            if not cached.is_dir():  # else another process was faster, with equal arrays
                raise


def _write_split(target: Path, split: str, examples: Sequence[LabelledFile], image_size: int) -> None:
    np.save(target / f"{split}-labels.npy", np.array([label for _, label in examples], dtype=np.int64))
    shape = (len(examples), 3, image_size, image_size)
    images_NCHW = np.lib.format.open_memmap(target / f"{split}-images.npy", mode="w+", dtype=np.uint8, shape=shape)

    def resize(rows: range) -> None:
        for row in rows:
            images_NCHW[row] = _resized(examples[row][0], image_size)

    rows = range(len(examples))
    with ThreadPoolExecutor() as threads:
        list(threads.map(resize, (rows[start : start + ROWS_PER_TASK] for start in rows[::ROWS_PER_TASK])))
    images_NCHW.flush()


def _resized(file: Path, image_size: int) -> npt.NDArray[np.uint8]:
    """The image as an array of channels, height and width."""
    try:
        with Image.open(file) as image:
            # Pillow's bilinear filter widens with the reduction, so it antialiases.
            square = ImageOps.fit(image.convert("RGB"), (image_size, image_size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as an image: {error}") from None
    return np.asarray(square).transpose(2, 0, 1)


def _open_split(cached: Path, split: str) -> LabelledImages:
    # Copy-on-write is the mapping that torch takes without a warning about read-only memory.
    images_NCHW = np.load(cached / f"{split}-images.npy", mmap_mode="c")
    return LabelledImages(torch.from_numpy(images_NCHW), torch.from_numpy(np.load(cached / f"{split}-labels.npy")))

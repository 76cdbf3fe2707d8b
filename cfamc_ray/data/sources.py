"""Reading a whole data set: digits, CIFAR, an .npz file or a folder of images (shapes as in images.py)."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import DataConfig
from cfamc_ray.data.imagefolder import read_imagefolder
from cfamc_ray.data.images import LabelledImages, Source
from cfamc_ray.data.stratification import stratified_order

DIGITS_TEST_IMAGES = 360
"""A fifth of the digits, always the same ones: scikit-learn defines no test split."""


_held: dict[tuple[str, str | None, int], Source] = {}


def hold_source(config: DataConfig, source: Source) -> None:
    """Let `read_source` give this for a config from now on, whatever this machine has on its disk."""
    _held[_key(config)] = source


def _key(config: DataConfig) -> tuple[str, str | None, int]:
    return config.name, config.path, config.image_size


def read_source(config: DataConfig, *, folder: Path | None = None) -> Source:
    """Read the data set that a config names; the last two stay in memory for the next trial of the process.

    Args:
        config: `name`, `path` and `image_size` are read.
        folder: where data sets and caches are kept; by default the folder that the environment variable CFAMC_DATA
            names, else ~/.cache/cfamc_ray.

    Raises:
        InputError: where the data set is missing, cannot be downloaded, or is not what it should be.
    """
    if _key(config) in _held:
        return _held[_key(config)]
    folder = folder or data_folder()
    path = locate(config, folder)
    return _read(config.name, path, config.image_size, folder, path.stat().st_mtime_ns if path else None)


def data_folder() -> Path:
    """Where data sets and caches are kept unless another folder is named."""
    return Path(os.environ.get("CFAMC_DATA") or "~/.cache/cfamc_ray").expanduser()


def locate(config: DataConfig, folder: Path | None = None) -> Path | None:
    """The file or folder of images; none for what a library brings along.

    Args:
        config: `name` and `path` are read.
        folder: as for `read_source`.

    Raises:
        InputError: where there is no such file or folder.
    """
    folder = folder or data_folder()
    if config.path is None:
        packed = folder / f"{config.name}.npz"
        return packed if config.name != "digits" and packed.is_file() else None
    for candidate in (Path(config.path).expanduser(), folder / config.path):
        if candidate.exists():
            return candidate
    raise InputError(f"data.path {config.path}: no such file or folder, neither from {Path.cwd()} nor from {folder}")


@lru_cache(maxsize=2)  # what pretrains, and what a transfer is judged on
def _read(name: str, path: Path | None, image_size: int, folder: Path, _modified_ns: int | None) -> Source:
    """Read anew unless all arguments, the time of modification among them, are those of the last call."""
    if name == "digits":
        return _read_digits(image_size)
    if path is None:
        return _read_torchvision(name, folder)
    if name == "imagefolder":
        return read_imagefolder(path, image_size, cache=folder / "imagefolder-cache")
    return _read_npz(path)


def _read_digits(image_size: int) -> Source:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import, and no other source needs it)

    digits = load_digits()
    gray_N1HW = torch.nn.functional.interpolate(
        torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16), size=(image_size, image_size), mode="bilinear"
    )
    images = LabelledImages(
        gray_N1HW.round().to(torch.uint8).repeat(1, 3, 1, 1),
        torch.from_numpy(digits.target).to(torch.int64),
    )
    order = stratified_order(images.labels_N, seed=0)
    train, test = images.take(order[DIGITS_TEST_IMAGES:]), images.take(order[:DIGITS_TEST_IMAGES])
    return Source(train, test, classes=len(digits.target_names))


def _read_torchvision(name: str, folder: Path) -> Source:
    from torchvision import datasets  # noqa: PLC0415 (slow to import, and no other source needs it)

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        train, test = dataset(folder, train=True, download=True), dataset(folder, train=False, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name} is not in {folder} and cannot be downloaded ({error}): put {name}.npz or the extracted "
            f"{dataset.filename} there, or name another folder in the environment variable CFAMC_DATA"
        ) from None
    return Source(
        train=_from_channels_last(train.data, np.array(train.targets)),
        test=_from_channels_last(test.data, np.array(test.targets)),
        classes=len(train.classes),
    )


def _read_npz(path: Path) -> Source:
    arrays = _npz_arrays(path)
    train, test = _npz_split(path, arrays, "train"), _npz_split(path, arrays, "test")
    sides = train.images_NCHW.shape[-1], test.images_NCHW.shape[-1]
    if sides[0] != sides[1]:
        raise InputError(
            f"{path}: x_train and x_test must be equally large, not {sides[0]} and {sides[1]} pixels a side"
        )
    labels = torch.cat([train.labels_N, test.labels_N])
    lowest, highest = int(labels.min()), int(labels.max())
    classes = arrays["classes"].size if "classes" in arrays else highest + 1
    if lowest < 0 or highest >= classes or classes < 2:
        raise InputError(
            f"{path}: labels must be from 0 to the number of classes (at least 2) minus one, "
            f"not from {lowest} to {highest} with {classes} classes"
        )
    return Source(train, test, classes)


def _npz_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz file, or not a whole one; numpy.savez writes them")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: array for name, array in file.items() if isinstance(array, np.ndarray)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged, or holds more than plain arrays: {error}") from None
    missing = [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    return arrays


def _npz_split(path: Path, arrays: Mapping[str, npt.NDArray[Any]], split: str) -> LabelledImages:
    images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    shape = (*images.shape, 1) if images.ndim == 3 else images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3) or 0 in shape:
        raise InputError(
            f"{path}: x_{split} must be uint8 of shape (N, H, H, 3), (N, H, H, 1) or (N, H, H), "
            f"not {images.dtype} of shape {images.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != shape[:1]:
        raise InputError(
            f"{path}: y_{split} must be {len(images)} integers, one for each image, "
            f"not {labels.dtype} of shape {labels.shape}"
        )
    return _from_channels_last(np.broadcast_to(images.reshape(shape), (*shape[:3], 3)), labels)


def _from_channels_last(images_NHWC: npt.NDArray[np.uint8], labels_N: npt.NDArray[np.integer[Any]]) -> LabelledImages:
    images_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))
    return LabelledImages(torch.from_numpy(images_NCHW), torch.from_numpy(labels_N.astype(np.int64)))

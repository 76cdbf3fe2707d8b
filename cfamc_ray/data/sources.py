"""Reading a whole data set: digits, CIFAR, an .npz file or a folder of images (shapes as in images.py)."""

import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cfamc_ray.config.data import Cifar10Config, Cifar100Config, DataConfig, DigitsConfig, NpzConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.images import UNLABELLED, LabelledImages, Source, uniformity
from cfamc_ray.data.stratification import stratified_order

DIGITS_TEST_IMAGES = 360
"""A fifth of the digits, always the same ones: scikit-learn defines no test split."""


_held: dict[DataConfig, Source] = {}


def hold_source(config: DataConfig, source: Source) -> None:
    """Let `read_source` give this for a config from now on, whatever this machine has on its disk."""
    _held[config.source()] = source


def read_source(config: DataConfig, *, folder: Path | None = None) -> Source:
    """Read the data set that a config names; the last two stay in memory for the next trial of the process.

    It warns where all images of a split are alike or of one colour each, which is rarely what they were before they
    were converted.

    Args:
        config: of the data set; how many images are used for what does not matter here.
        folder: where data sets and caches are kept; by default the folder that the environment variable CFAMC_DATA
            names, else ~/.cache/cfamc_ray.

    Raises:
        InputError: where the data set is missing, cannot be downloaded, or is not what it should be.
    """
    config = config.source()
    if config in _held:
        return _held[config]
    path = locate(config, folder)
    if folder is None:  # some need none, and so no home
        folder = data_folder() if config.needs_folder else Path()
    return _read(config, path, folder, path.stat().st_mtime_ns if path else None)


def data_folder() -> Path:
    """Where data sets and caches are kept unless a caller says otherwise.

    Raises:
        InputError: where neither CFAMC_DATA names a folder nor the user has a home.
    """
    return _expanded(os.environ.get("CFAMC_DATA") or "~/.cache/cfamc_ray")


def locate(config: DataConfig, folder: Path | None = None) -> Path | None:
    """The file or folder of images; none for what a library brings along.

    Args:
        config: of the data set.
        folder: as for `read_source`.

    Raises:
        InputError: where there is no such file or folder.
    """
    if config.location is None:
        packed = (folder or data_folder()) / f"{config.name}.npz" if config.is_packed else None
        return packed if packed and packed.is_file() else None
    given = _expanded(config.location)
    if given.exists():
        return given
    folder = folder or data_folder()
    if (folder / config.location).exists():
        return folder / config.location
    raise InputError(
        f"data.path {config.location}: no such file or folder, neither from {Path.cwd()} nor from {folder}; "
        "--set data.path=PATH names another place"
    )


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and no such user
        raise InputError(
            f"{path}: there is no home folder that ~ could stand for; write the whole path, or name the folder of data "
            "sets and caches in the environment variable CFAMC_DATA"
        ) from None


@lru_cache(maxsize=2)  # what pretrains, and what a transfer is judged on
def _read(config: DataConfig, path: Path | None, folder: Path, _modified_ns: int | None) -> Source:
    """Read anew unless all arguments, the time of modification among them, are those of the last call."""
    source: Source = config.build(path, folder)
    for split, images in (("training", source.train), ("test", source.test)):
        if remark := uniformity(images.images_NCHW):
            warnings.warn(f"{path or config.name}: {remark.format(f'{split} images')}", stacklevel=3)
    return source


def read_digits(config: DigitsConfig, path: Path | None, folder: Path) -> Source:
    """The digits of scikit-learn; arguments as for `DataConfig.build`."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import, and no other source needs it)

    digits = load_digits()
    gray_N1HW = torch.nn.functional.interpolate(
        torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16),
        size=(config.image_size, config.image_size),
        mode="bilinear",
    )
    images = LabelledImages(
        gray_N1HW.round().to(torch.uint8).repeat(1, 3, 1, 1),
        torch.from_numpy(digits.target).to(torch.int64),
    )
    order = stratified_order(images.labels_N, seed=0)
    train, test = images.take(order[DIGITS_TEST_IMAGES:]), images.take(order[:DIGITS_TEST_IMAGES])
    return Source(train, test, tuple(map(str, digits.target_names)))


def read_cifar(config: Cifar10Config | Cifar100Config, path: Path | None, folder: Path) -> Source:
    """CIFAR from a packed file or by torchvision; arguments as for `DataConfig.build`."""
    return _read_torchvision(config.name, folder) if path is None else _read_npz(path)


def read_npz(config: NpzConfig, path: Path, folder: Path) -> Source:
    """An .npz file; arguments as for `DataConfig.build`."""
    return _read_npz(path)


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
        train=LabelledImages(_channels_first(train.data), torch.tensor(train.targets)),
        test=LabelledImages(_channels_first(test.data), torch.tensor(test.targets)),
        class_names=tuple(train.classes),
    )


def _read_npz(path: Path) -> Source:
    arrays = _npz_arrays(path)
    train_NCHW, test_NCHW = (_npz_images(path, arrays, split) for split in ("train", "test"))
    sides = train_NCHW.shape[-1], test_NCHW.shape[-1]
    if sides[0] != sides[1]:
        raise InputError(
            f"{path}: x_train and x_test must be equally large, not {sides[0]} and {sides[1]} pixels a side"
        )
    classes = _npz_classes(path, arrays)
    train_N, test_N = (_numbered(arrays[name], classes) for name in ("y_train", "y_test"))
    names = _npz_names(arrays.get("classes"), classes)
    return Source(LabelledImages(train_NCHW, train_N), LabelledImages(test_NCHW, test_N), names)


def _npz_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz file, or not a whole one; numpy.savez writes them")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: array for name, array in file.items() if isinstance(array, np.ndarray)}
    except (OSError, ValueError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged, or holds more than plain arrays: {error}") from None
    missing = [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    return arrays


def _npz_images(path: Path, arrays: Mapping[str, npt.NDArray[Any]], split: str) -> torch.Tensor:
    """The images_NCHW of a split, whose labels are integers."""
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
    return _channels_first(np.broadcast_to(images.reshape(shape), (*shape[:3], 3)))


def _npz_classes(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> list[int]:
    """The labels of training images, ascending; each of them is a class, whatever number names it."""
    train, test = (np.unique(arrays[name]).tolist() for name in ("y_train", "y_test"))
    if train[0] < UNLABELLED:
        raise InputError(f"{path}: y_train holds {train[0]}; a label is 0 or more, or -1 for an image without a class")
    if test[0] < 0:
        raise InputError(f"{path}: y_test holds {test[0]}; each test image needs a class, a label of 0 or more")
    classes = [label for label in train if label != UNLABELLED]
    if len(classes) < 2:
        raise InputError(f"{path}: y_train must hold at least 2 classes, not {len(classes)} ({classes})")
    if unknown := sorted(set(test) - set(classes)):
        names = ", ".join(_npz_names(arrays.get("classes"), unknown))
        raise InputError(f"{path}: y_test holds classes that no image of y_train has: {names}")
    return classes


def _npz_names(names: npt.NDArray[Any] | None, classes: Sequence[int]) -> tuple[str, ...]:
    """What the file calls its classes, if its names reach so far; else their labels."""
    if names is None or names.ndim != 1 or len(names) <= classes[-1]:
        return tuple(map(str, classes))
    named = [names[label].item() for label in classes]
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in named)


def _numbered(labels_N: npt.NDArray[np.integer[Any]], classes: Sequence[int]) -> torch.Tensor:
    """The labels in numbers from 0 on, in the order of the classes."""
    number_of = {UNLABELLED: UNLABELLED, **{label: number for number, label in enumerate(classes)}}
    labels, where_N = np.unique(labels_N, return_inverse=True)
    return torch.tensor([number_of[label] for label in labels.tolist()])[torch.from_numpy(where_N)]


def _channels_first(images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2)))

"""Read a data set: digits, CIFAR, an .npz file or a folder of images (shapes as in images.py)."""

import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cfamc_ray.config.data import Cifar10Config, Cifar100Config, DataConfig, DigitsConfig, ImageFolderConfig, NpzConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.folders import files_in, list_images
from cfamc_ray.data.images import UNLABELLED, LabelledImages, Source, uniformity
from cfamc_ray.data.stratification import stratified_order

DIGITS_TEST_IMAGES = 360
"""Number of test images: a fifth of the digits, always the same, because scikit-learn defines no test split."""


_held: dict[DataConfig, Source] = {}


def hold_source(config: DataConfig, source: Source) -> None:
    """Let `read_source` return `source` for a config from now on, instead of reading from disk."""
    _held[config.source()] = source


def read_source(config: DataConfig, *, folder: Path | None = None) -> Source:
    """Read the data set of a config; the last two are kept in memory for the next trial of the process.

    It warns if all images of a split are equal or of a single colour each, which usually means a failed conversion.

    Args:
        config: config of the data set; its numbers of images are ignored here.
        folder: folder of data sets and caches; by default the folder of the environment variable CFAMC_DATA, else
            ~/.cache/cfamc_ray.

    Raises:
        InputError: if the data set is missing, cannot be downloaded, or is invalid.
    """
    config = config.source()
    if config in _held:
        return _held[config]
    path = locate(config, folder)
    if folder is None:  # some data sets need no folder, and thus no home
        folder = data_folder() if config.needs_folder else Path()
    return _read(config, path, folder, path and _state(config, path))


def data_folder() -> Path:
    """The default folder of data sets and caches.

    Raises:
        InputError: if CFAMC_DATA is not set and the user has no home folder.
    """
    return _expanded(os.environ.get("CFAMC_DATA") or "~/.cache/cfamc_ray")


def locate(config: DataConfig, folder: Path | None = None) -> Path | None:
    """Find the file or folder of images; None for a data set that comes with a library.

    Args:
        config: config of the data set.
        folder: as in `read_source`.

    Raises:
        InputError: if there is no such file or folder.
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
        "set another path with --set data.path=PATH"
    )


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and no such user
        raise InputError(
            f"{path}: there is no home folder for ~; write the whole path, or name the folder of data "
            "sets and caches in the environment variable CFAMC_DATA"
        ) from None


def _state(config: DataConfig, path: Path) -> int:
    """A number that changes with a file's time of modification, or with names, sizes and times of a folder's files."""
    if not config.is_folder:
        return path.stat().st_mtime_ns
    if isinstance(config, ImageFolderConfig):
        return hash(tuple((split, *files) for split, files in list_images(path).splits.items()))
    return hash(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files_in(path)))


@lru_cache(maxsize=2)  # the data sets of pretraining and of a transfer
def _read(config: DataConfig, path: Path | None, folder: Path, _state: int | None) -> Source:
    """Read a data set, cached by all arguments, including the state of its files."""
    source: Source = config.build(path, folder)
    for split, images in (("training", source.train), ("test", source.test)):
        if remark := uniformity(images.images_NCHW):
            warnings.warn(f"{path or config.name}: {remark.format(f'{split} images')}", stacklevel=3)
    return source


def read_digits(config: DigitsConfig, path: Path | None, folder: Path) -> Source:
    """Read the digits of scikit-learn; arguments as in `DataConfig.build`."""
    # Its file, because scikit-learn takes more than a second to import in every worker.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows_NP = np.loadtxt(str(file), delimiter=",")  # 64 pixels from 0 to 16, and the label
    gray_N1HW = torch.nn.functional.interpolate(
        torch.from_numpy(rows_NP[:, :-1]).reshape(-1, 1, 8, 8) * (255 / 16),
        size=(config.image_size, config.image_size),
        mode="bilinear",
    )
    images = LabelledImages(
        gray_N1HW.round().to(torch.uint8).repeat(1, 3, 1, 1),
        torch.from_numpy(rows_NP[:, -1]).to(torch.int64),
    )
    order = stratified_order(images.labels_N, seed=0)
    train, test = images.take(order[DIGITS_TEST_IMAGES:]), images.take(order[:DIGITS_TEST_IMAGES])
    return Source(train, test, tuple(map(str, range(10))))


def read_cifar(config: Cifar10Config | Cifar100Config, path: Path | None, folder: Path) -> Source:
    """Read CIFAR from a packed file or with torchvision; arguments as in `DataConfig.build`."""
    return _read_torchvision(config.name, folder) if path is None else _read_npz(path)


def read_npz(config: NpzConfig, path: Path, folder: Path) -> Source:
    """Read an .npz file; arguments as in `DataConfig.build`."""
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
            f"{path}: x_train and x_test must have the same image size, not {sides[0]} and {sides[1]} pixels"
        )
    classes = _npz_classes(path, arrays)
    train_N, test_N = (_numbered(arrays[name], classes) for name in ("y_train", "y_test"))
    names = _npz_names(arrays.get("classes"), classes)
    return Source(LabelledImages(train_NCHW, train_N), LabelledImages(test_NCHW, test_N), names)


def _npz_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not an .npz file, or incomplete; numpy.savez writes such files")
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
    """The images_NCHW of a split, after checks of its images and labels."""
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
    """The labels of training images, ascending; each label is a class, whatever its number."""
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
    """The names of the classes in the file if there is one for every label; else the labels."""
    if names is None or names.ndim != 1 or len(names) <= classes[-1]:
        return tuple(map(str, classes))
    named = [names[label].item() for label in classes]
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in named)


def _numbered(labels_N: npt.NDArray[np.integer[Any]], classes: Sequence[int]) -> torch.Tensor:
    """The labels mapped to 0, 1, …, in the order of the classes."""
    number_of = {UNLABELLED: UNLABELLED, **{label: number for number, label in enumerate(classes)}}
    labels, where_N = np.unique(labels_N, return_inverse=True)
    return torch.tensor([number_of[label] for label in labels.tolist()])[torch.from_numpy(where_N)]


def _channels_first(images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2)))

"""Find the images of a folder, and the split and class of each."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from cfamc_ray.config.errors import InputError
from cfamc_ray.data.images import UNLABELLED
from cfamc_ray.data.stratification import stratified_order

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
"""Names of the test split, in order of preference."""
UNLABELLED_NAMES = ("unlabelled", "unlabeled")
IGNORED_NAMES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir")
"""Files of operating systems, in lower case; names that begin with a dot are ignored too."""


class ImageFile(NamedTuple):
    """An image file with its class, and with its size and modification time, which reveal changes."""

    path: Path
    name: str
    """Path relative to the folder of the data set, with slashes."""
    size: int
    modified_ns: int
    label: int


@dataclass(frozen=True)
class ImageFiles:
    """The files of a data set.

    Attributes:
        splits: the images of "train" and of "test".
        class_names: names of the classes, in the order of the labels.
        left_out: files in the folders of classes whose suffix is not that of an image.
    """

    splits: Mapping[str, Sequence[ImageFile]]
    class_names: tuple[str, ...]
    left_out: Sequence[str]


@dataclass(frozen=True)
class _Layout:
    """Folders by class; if `test` is empty, a part of the training images becomes the test split."""

    train: Mapping[str, Path]
    test: Mapping[str, Path]
    unlabelled: Sequence[Path]


def files_in(folder: Path) -> list[Path]:
    """All files of a folder and of its folders, in the order of their paths."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def list_images(folder: Path) -> ImageFiles:
    """Find the images of each split and class.

    The layouts are as follows; names of splits may be in upper or lower case:

    - ``train/CLASS/…`` (or training) and ``test/CLASS/…``, with the same classes. Test may also be named testing, val,
      valid or validation: the first of these that has a folder named as a class of train is the test split, and the
      others are ignored.
    - ``CLASS/…`` alone: a stratified fifth of the images is the test split, always the same one. Here a class may be
      named train, if images lie directly in its folder.
    - In addition to either, ``unlabelled/…`` (or unlabeled), at the top or in train: images for pretraining only.

    The images of a class may lie in subfolders of the class folder. Hidden files, files in `IGNORED_NAMES` and files
    next to the class folders are ignored; a file whose suffix is not that of an image is left out.

    Args:
        folder: folder of the data set.

    Raises:
        InputError: if the layout is none of these, or something in it is missing or unreadable.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; imagefolder needs one with a folder of images for each class")
    try:
        layout = _layout(folder)
        files = {
            "train": [file for label, at in enumerate(layout.train.values()) for file in _files(folder, at, label)],
            "test": [file for label, at in enumerate(layout.test.values()) for file in _files(folder, at, label)],
            "unlabelled": [file for at in layout.unlabelled for file in _files(folder, at, UNLABELLED)],
        }
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
    train, test, unlabelled = ([file for file in part if _is_image(file.name)] for part in files.values())
    left_out = [file.name for part in files.values() for file in part if not _is_image(file.name)]
    class_names = tuple(layout.train)
    if not layout.test:
        order = stratified_order(torch.tensor([file.label for file in train]), seed=0).tolist()
        test_images = math.ceil(len(train) / 5)
        train, test = [train[n] for n in order[test_images:]], [train[n] for n in order[:test_images]]
        if alone := {file.label for file in test} - {file.label for file in train}:
            names = _listed(class_names[label] for label in sorted(alone))
            raise InputError(f"{folder}: a fifth of the images is held out for testing, which leaves none of {names}")
    return ImageFiles({"train": train + unlabelled, "test": test}, class_names, left_out)


def _layout(folder: Path) -> _Layout:
    folders = _folders(folder)
    unlabelled, train, tests = (_named(folders, names) for names in (UNLABELLED_NAMES, TRAIN_NAMES, TEST_NAMES))
    only_splits = len(folders) == len([*unlabelled, *train, *tests])
    if not (train and _folders(train[0])) and not (only_splits and train + tests):
        return _Layout(_classes(folder, folders), {}, unlabelled)
    if len(train) != 1:
        found = _listed(path.name for path in train + tests)
        raise InputError(f"{folder}: holds {found}, but needs one folder train, and one folder test or val beside it")
    below = _folders(train[0])
    classes = _classes(train[0], below)
    return _Layout(classes, _test_classes(train[0], classes, tests), unlabelled + _named(below, UNLABELLED_NAMES))


def _classes(folder: Path, folders: Mapping[str, Path]) -> dict[str, Path]:
    classes = {name: path for name, path in folders.items() if name.lower() not in UNLABELLED_NAMES}
    if len(classes) < 2:
        raise InputError(
            f"{folder}: needs a folder of images for each of two classes or more, but has {_listed(classes)}"
        )
    return classes


def _test_classes(train: Path, classes: Mapping[str, Path], tests: Sequence[Path]) -> dict[str, Path]:
    """The class folders of the test split, which must be the classes of the training split."""
    where, holds = train.parent, f"{train.name} holds the folders {_listed(classes)}"
    if not tests:
        raise InputError(
            f"{where}: {holds}, so a folder test or val with the same classes is needed beside it "
            "(or, if train is a class itself, its images directly in it)"
        )
    test = next((path for path in tests if _folders(path).keys() & classes.keys()), None)
    if test is None:
        raise InputError(f"{where}: {holds}, but none of them is in {' or '.join(path.name for path in tests)}")
    found = _folders(test)
    for path in _named(found, UNLABELLED_NAMES):
        raise InputError(f"{path}: test images need a class; put images without one into {train.name}")
    for lacking, missing in ((test, classes.keys() - found.keys()), (train, found.keys() - classes.keys())):
        if missing:
            raise InputError(
                f"{where}: {train.name} and {test.name} must have the same classes; "
                f"{lacking.name} lacks {_listed(sorted(missing))}"
            )
    return found


def _folders(folder: Path) -> dict[str, Path]:
    return {entry.name: Path(entry.path) for entry in _entries(folder) if entry.is_dir()}


def _named(folders: Mapping[str, Path], names: Sequence[str]) -> list[Path]:
    """The folders that have one of the names, in the order of the names."""
    return [path for wanted in names for name, path in folders.items() if name.lower() == wanted]


def _files(folder: Path, branch: Path, label: int) -> list[ImageFile]:
    """All files of a class; at least one must be an image."""
    files = [
        ImageFile(path := Path(entry.path), path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns, label)
        for entry in _walk(branch)
        if (stat := entry.stat())
    ]
    if not any(_is_image(file.name) for file in files):
        raise InputError(f"{branch}: has no images; it holds {_listed(file.path.name for file in files)}")
    return files


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator["os.DirEntry[str]"]:
    """All files below a folder."""
    here = folder.resolve()
    if here in above:
        raise InputError(f"{folder}: a link to a folder that contains it")
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path), (*above, here))
        else:
            yield entry


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """The files and folders of a folder, sorted by name."""
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if not entry.name.startswith(".")]
    entries = sorted((entry for entry in entries if entry.name.lower() not in IGNORED_NAMES), key=lambda e: e.name)
    for entry in entries:
        if not entry.is_dir() and not entry.is_file():
            what = "a link to a missing file" if entry.is_symlink() else "neither a file nor a folder"
            raise InputError(f"{entry.path}: {what}; remove it")
    return entries


def _is_image(name: str) -> bool:
    """Whether a file is an image by its suffix; a file without a suffix counts as one."""
    suffix = Path(name).suffix.lower()
    return not suffix or suffix in _suffixes()


@cache
def _suffixes() -> frozenset[str]:
    return frozenset(Image.registered_extensions())


def _listed(names: Iterable[str]) -> str:
    """The first five names, and the number of the others."""
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") or "none"

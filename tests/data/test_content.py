import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfamc_ray.config.data import DataConfig, parse_data
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.content import content_digest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for n, name in enumerate(["train/cat/0", "train/dog/0", "test/cat/0", "test/dog/0"]):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8 + n, 8), (n, 0, 0)).save(tmp_path / "photos" / f"{name}.bmp")
    return tmp_path / "photos"


def folder(path: Path, **values: Any) -> DataConfig:
    return parse_data(name="imagefolder", path=str(path), **values)


def save(path: Path, **changed: Any) -> DataConfig:
    arrays = {"x_train": np.zeros((4, 4, 4), np.uint8), "y_train": np.arange(4) % 2}
    np.savez(path, **{**arrays, "x_test": arrays["x_train"], "y_test": arrays["y_train"], **changed})
    return parse_data(name="npz", path=str(path))


def test_copies_of_a_file_are_the_same_images(tmp_path: Path) -> None:
    original = save(tmp_path / "a.npz")
    digest = content_digest(original)
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    shutil.copyfile(tmp_path / "a.npz", tmp_path / "b.npz")
    assert content_digest(parse_data(name="npz", path="b.npz"), folder=tmp_path) == digest
    (tmp_path / "other").mkdir()
    (tmp_path / "b.npz").rename(tmp_path / "other" / "cifar10.npz")
    assert content_digest(parse_data(name="cifar10"), folder=tmp_path / "other") == digest


def test_another_label_makes_other_images_also_in_place(tmp_path: Path) -> None:
    before = content_digest(save(tmp_path / "a.npz"))
    assert content_digest(save(tmp_path / "a.npz", y_train=np.array([0, 1, 1, 0]))) != before
    assert content_digest(save(tmp_path / "a.npz")) == before


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = save(tmp_path / "a.npz")
    before = content_digest(config)
    monkeypatch.setattr(Path, "open", None)
    assert content_digest(config) == before


def test_copies_of_a_folder_are_the_same_images(photos: Path, tmp_path: Path) -> None:
    digest = content_digest(folder(photos))
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(photos, copy, copy_function=shutil.copyfile)
    (copy / "train" / ".DS_Store").touch()
    (copy / "train" / "cat" / "Thumbs.db").touch()
    assert content_digest(folder(copy)) == digest
    assert content_digest(folder(copy, image_size=64)) != digest


@pytest.mark.parametrize(
    "change",
    [
        lambda p: Image.new("RGB", (30, 8)).save(p / "train" / "cat" / "0.bmp"),
        lambda p: (p / "train" / "cat" / "0.bmp").rename(p / "train" / "cat" / "1.bmp"),
        lambda p: [cat.rename(cat.with_name("cow")) for cat in [*p.glob("*/cat")]],
        lambda p: shutil.copyfile(p / "train" / "cat" / "0.bmp", p / "train" / "dog" / "1.bmp"),
        lambda p: shutil.copytree(p / "train" / "cat", p / "unlabelled"),
    ],
)
def test_a_changed_folder_holds_other_images(photos: Path, change: Callable[[Path], object]) -> None:
    before = content_digest(folder(photos))
    change(photos)
    assert content_digest(folder(photos)) != before


def test_libraries_bring_along_the_same_images_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = [parse_data(name="digits", image_size=8), parse_data(name="digits"), parse_data(name="cifar10")]
    given.append(parse_data(name="cifar100"))
    monkeypatch.setenv("CFAMC_DATA", str(tmp_path))
    digests = [content_digest(config) for config in given]
    assert len(set(digests)) == 4
    assert [content_digest(config, folder=tmp_path / "other") for config in given] == digests


def test_it_speaks_of_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        content_digest(folder(tmp_path / "none"), folder=tmp_path)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        content_digest(parse_data(name="npz", path=str(tmp_path)))

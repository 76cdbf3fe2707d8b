import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import DataConfig
from cfamc_ray.data.imagefolder import read_imagefolder
from cfamc_ray.data.splits import load_splits

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def write_classes(folder: Path, images: int) -> None:
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for n in range(images):
            Image.new("RGB", (12, 9), (*colour[:2], colour[2] + n)).save(folder / name / f"{n}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with four training and two test images each."""
    write_classes(tmp_path / "photos" / "train", images=4)
    write_classes(tmp_path / "photos" / "test", images=2)
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write_pixels(path: Path, pixels_HWC: np.ndarray) -> None:
    Image.fromarray(pixels_HWC.astype(np.uint8)).save(path)


def test_classes_are_numbered_in_alphabetical_order(folder: Path, cache: Path) -> None:
    source = read_imagefolder(folder, 8, cache=cache)
    assert source.classes == 3
    assert source.train.images_NCHW.shape == (12, 3, 8, 8)
    assert source.test.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.test.images_NCHW[:, :, 4, 4].tolist() == [
        [0, 0, 200], [0, 0, 201], [0, 200, 0], [0, 200, 1], [200, 0, 0], [200, 0, 1],
    ]  # fmt: skip


def test_val_stands_in_for_test(folder: Path, cache: Path) -> None:
    (folder / "test").rename(folder / "val")
    assert len(read_imagefolder(folder, 8, cache=cache).test) == 6


def test_without_a_train_folder_a_fifth_of_each_class_becomes_the_test_split(folder: Path, cache: Path) -> None:
    source = read_imagefolder(folder / "train", 8, cache=cache)
    assert (len(source.train), len(source.test)) == (9, 3)
    assert torch.bincount(source.test.labels_N).tolist() == [1, 1, 1]
    images = torch.cat([source.train.images_NCHW, source.test.images_NCHW])
    assert len(np.unique(images[:, :, 0, 0], axis=0)) == 12


def test_hidden_entries_are_skipped(folder: Path, cache: Path) -> None:
    (folder / "train" / ".git").mkdir()
    (folder / "train" / "red" / ".DS_Store").touch()
    assert len(read_imagefolder(folder, 8, cache=cache).train) == 12


def test_the_longer_side_is_cropped_to_its_centre(folder: Path, cache: Path) -> None:
    thirds = np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), 16, axis=1).repeat(16, axis=0)
    write_pixels(folder / "test" / "blue" / "0.png", thirds)
    write_pixels(folder / "test" / "blue" / "1.png", thirds.transpose(1, 0, 2))
    inside_NCHW = read_imagefolder(folder, 8, cache=cache).test.images_NCHW[:2, :, 1:-1, 1:-1]
    assert (inside_NCHW == torch.tensor([0, 255, 0]).view(1, 3, 1, 1)).all()


def test_reducing_antialiases(folder: Path, cache: Path) -> None:
    stripes = np.zeros((64, 64, 3))
    stripes[:, ::8] = 255
    write_pixels(folder / "test" / "blue" / "0.png", stripes)
    inside_CHW = read_imagefolder(folder, 8, cache=cache).test.images_NCHW[0, :, 1:-1, 1:-1]
    assert (inside_CHW - 255 / 8).abs().max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_colour_modes_become_rgb(folder: Path, cache: Path, mode: str) -> None:
    file = folder / "test" / "blue" / "0.png"
    file.unlink()
    Image.new("RGB", (12, 9), (255, 255, 255)).convert(mode).save(file.with_suffix(".tif"))
    assert (read_imagefolder(folder, 8, cache=cache).test.images_NCHW[0] == 255).all()


def test_images_are_resized_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_imagefolder(folder, 8, cache=cache)
    monkeypatch.setattr(Image, "open", None)
    second = read_imagefolder(folder, 8, cache=cache)
    assert torch.equal(first.train.images_NCHW, second.train.images_NCHW)
    (key,) = cache.glob("*/key.json")
    assert json.loads(key.read_text())["image_size"] == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write_pixels(folder / "train" / "red" / "0.png", np.zeros((9, 12, 3))),
        lambda folder: os.utime(folder / "train" / "red" / "0.png", ns=(1, 1)),
        lambda folder: (folder / "train" / "red" / "0.png").rename(folder / "train" / "red" / "9.png"),
        lambda folder: (folder / "train" / "red" / "0.png").unlink(),
    ],
)
def test_a_changed_folder_is_resized_anew(folder: Path, cache: Path, change: Callable[[Path], object]) -> None:
    read_imagefolder(folder, 8, cache=cache)
    change(folder)
    read_imagefolder(folder, 8, cache=cache)
    assert len(list(cache.iterdir())) == 2


def test_another_size_is_resized_beside(folder: Path, cache: Path) -> None:
    small, large = (read_imagefolder(folder, size, cache=cache) for size in (8, 16))
    assert (small.test.images_NCHW.shape[-1], large.test.images_NCHW.shape[-1]) == (8, 16)


def test_concurrent_writers_leave_one_whole_cache(folder: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as writers:
        sources = list(writers.map(lambda _: read_imagefolder(folder, 8, cache=cache), range(4)))
    assert all(torch.equal(source.train.images_NCHW, sources[0].train.images_NCHW) for source in sources)
    assert len(list(cache.iterdir())) == 1


def test_a_faster_writer_wins(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def after_another_writer(self: Path, target: Path) -> Path:
        shutil.copytree(self, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", after_another_writer)
    assert len(read_imagefolder(folder, 8, cache=cache).train) == 12
    assert len(list(cache.iterdir())) == 1


@pytest.mark.filterwarnings("error")
def test_pretraining_images_stay_on_disk(folder: Path, cache: Path) -> None:
    config = DataConfig(
        name="imagefolder", path=str(folder), image_size=8, pretrain_images=6, probe_images=6, validation_images=3
    )
    pretrain = load_splits(config, folder=cache).pretrain
    (file,) = cache.glob("imagefolder-cache/*/train-images.npy")
    np.load(file, mmap_mode="r+")[:] = 77
    assert (pretrain.batch(torch.tensor([5, 0])) == 77).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "photos: not a folder"),
        (lambda folder: shutil.rmtree(folder / "test"), "photos: has a folder train.* needs a folder test or val"),
        (lambda folder: list(map(shutil.rmtree, (folder / "train").iterdir())), "train: .* but has 0"),
        (lambda folder: list(map(shutil.rmtree, (folder / "test").glob("[br]*"))), "test: .* but has 1"),
        (lambda folder: shutil.rmtree(folder / "test" / "red"), r"train and test .* one lacks \['red'\]"),
        (lambda folder: list(map(Path.unlink, (folder / "test" / "red").iterdir())), "red: a class without images"),
        (
            lambda folder: (folder / "test" / "red" / "0.png").write_text("no image"),
            "0.png: cannot be read as an image",
        ),
        (lambda folder: os.truncate(folder / "test" / "red" / "1.png", 50), "1.png: cannot be read as an image"),
        (lambda folder: (folder / "train" / "red" / "more").mkdir(), "more: cannot be read as an image"),
    ],
)
def test_wrong_folders(folder: Path, cache: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(InputError, match=message):
        read_imagefolder(folder, 8, cache=cache)
    assert not list(cache.glob("*"))


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: the resized images cannot be written there"):
        read_imagefolder(folder, 8, cache=tmp_path / "file")

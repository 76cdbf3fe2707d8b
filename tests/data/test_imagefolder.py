import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfamc_ray.config.data import parse_data
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.data import imagefolder
from cfamc_ray.data.imagefolder import read_imagefolder
from cfamc_ray.data.images import UNLABELLED
from cfamc_ray.data.mapped import MappedImages
from cfamc_ray.data.sources import read_source
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.batches import encode
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.method.encoder import SelfSupervisedEncoder

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
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels_HWC.astype(np.uint8)).save(path)


def test_classes_are_numbered_in_alphabetical_order(folder: Path, cache: Path) -> None:
    source = read_imagefolder(folder, 8, cache=cache)
    assert (source.classes, source.class_names) == (3, ("blue", "green", "red"))
    assert source.train.images_NCHW.shape == (12, 3, 8, 8)
    assert source.test.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.test.images_NCHW[:][:, :, 4, 4].tolist() == [
        [0, 0, 200], [0, 0, 201], [0, 200, 0], [0, 200, 1], [200, 0, 0], [200, 0, 1],
    ]  # fmt: skip


def test_without_a_train_folder_a_fifth_of_each_class_becomes_the_test_split(folder: Path, cache: Path) -> None:
    source = read_imagefolder(folder / "train", 8, cache=cache)
    assert (len(source.train), len(source.test)) == (9, 3)
    assert torch.bincount(source.test.labels_N).tolist() == [1, 1, 1]
    images = torch.cat([source.train.images_NCHW[:], source.test.images_NCHW[:]])
    assert len(np.unique(images[:, :, 0, 0], axis=0)) == 12


def test_unlabelled_images_stand_behind_the_others(folder: Path, cache: Path) -> None:
    before = read_imagefolder(folder, 8, cache=cache)
    for n in range(3):
        write_pixels(folder / "unlabelled" / f"{n}.png", np.full((9, 12, 3), 10 + n))
    after = read_imagefolder(folder, 8, cache=cache)
    assert torch.equal(after.train.images_NCHW[:][:12], before.train.images_NCHW[:])
    assert torch.equal(after.test.images_NCHW[:], before.test.images_NCHW[:])
    assert after.train.labels_N.tolist() == [*before.train.labels_N.tolist(), UNLABELLED, UNLABELLED, UNLABELLED]
    assert after.train.images_NCHW[:][12:, 0, 0, 0].tolist() == [10, 11, 12]
    assert after.class_names == ("blue", "green", "red")


def test_files_that_are_left_out_are_told(folder: Path, cache: Path) -> None:
    for n in range(2):
        (folder / "train" / "red" / f"{n}.txt").touch()
    with pytest.warns(UserWarning, match=r"photos: 2 files without an image suffix are left out: train/red/0.txt, …"):
        assert len(read_imagefolder(folder, 8, cache=cache).train) == 12


def test_the_longer_side_is_cropped_to_its_centre(folder: Path, cache: Path) -> None:
    thirds = np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), 16, axis=1).repeat(16, axis=0)
    write_pixels(folder / "test" / "blue" / "0.png", thirds)
    write_pixels(folder / "test" / "blue" / "1.png", thirds.transpose(1, 0, 2))
    inside_NCHW = read_imagefolder(folder, 8, cache=cache).test.images_NCHW[:][:2, :, 1:-1, 1:-1]
    assert (inside_NCHW == torch.tensor([0, 255, 0]).view(1, 3, 1, 1)).all()


def test_reducing_antialiases(folder: Path, cache: Path) -> None:
    stripes = np.zeros((64, 64, 3))
    stripes[:, ::8] = 255
    write_pixels(folder / "test" / "blue" / "0.png", stripes)
    inside_CHW = read_imagefolder(folder, 8, cache=cache).test.images_NCHW[:][0, :, 1:-1, 1:-1]
    assert (inside_CHW - 255 / 8).abs().max() <= 1


def gone(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def test_images_are_resized_once(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_imagefolder(folder, 8, cache=cache)
    monkeypatch.setattr(Image, "open", None)
    second = read_imagefolder(folder, 8, cache=cache)
    assert torch.equal(first.train.images_NCHW[:], second.train.images_NCHW[:])
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


@pytest.mark.filterwarnings("ignore:.* of a single colour")
def test_a_process_that_has_read_a_folder_sees_its_new_images(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFAMC_DATA", str(cache))
    config = parse_data(name="imagefolder", path=str(folder), image_size=8, pretrain_images=2, probe_images=2)
    before = read_source(config)
    assert read_source(config) is before
    shutil.copy(folder / "train" / "red" / "0.png", folder / "train" / "red" / "more.png")
    after = read_source(config)
    assert len(after.train) == len(before.train) + 1


def test_another_size_is_resized_beside(folder: Path, cache: Path) -> None:
    small, large = (read_imagefolder(folder, size, cache=cache) for size in (8, 16))
    assert (small.test.images_NCHW.shape[-1], large.test.images_NCHW.shape[-1]) == (8, 16)


def test_concurrent_writers_leave_one_whole_cache(folder: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as writers:
        sources = list(writers.map(lambda _: read_imagefolder(folder, 8, cache=cache), range(4)))
    assert all(torch.equal(source.train.images_NCHW[:], sources[0].train.images_NCHW[:]) for source in sources)
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
    for split in ("train", "test"):  # a set of single colours is warned of
        write_pixels(folder / split / "red" / "0.png", np.arange(324).reshape(9, 12, 3))
    config = parse_data(
        name="imagefolder", path=str(folder), image_size=8, pretrain_images=6, probe_images=6, validation_images=3
    )
    pretrain = load_splits(config, folder=cache).pretrain
    (file,) = cache.glob("imagefolder-cache/*/train-images.npy")
    np.load(file, mmap_mode="r+")[:] = 77
    assert (pretrain.batch(torch.tensor([5, 0])) == 77).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "test" / "red"), "must have the same classes; test lacks red"),
        (
            lambda folder: (folder / "test" / "red" / "0.png").write_text("no image"),
            "0.png: cannot be read as an image",
        ),
        (lambda folder: os.truncate(folder / "test" / "red" / "1.png", 50), "1.png: cannot be read as an image"),
    ],
)
def test_wrong_folders(folder: Path, cache: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(InputError, match=message):
        read_imagefolder(folder, 8, cache=cache)
    assert not list(cache.glob("*"))


def test_a_folder_that_moved_keeps_its_resized_images(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_imagefolder(folder, 8, cache=cache)
    moved = folder.rename(tmp_path / "moved")
    shutil.copytree(moved, tmp_path / "copied")
    monkeypatch.setattr(Image, "open", None)
    for place in (moved, tmp_path / "copied"):
        assert torch.equal(read_imagefolder(place, 8, cache=cache).train.images_NCHW[:], first.train.images_NCHW[:])
    assert len(list(cache.iterdir())) == 1


def test_other_rules_of_reading_resize_anew(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_imagefolder(folder, 8, cache=cache)
    monkeypatch.setattr(imagefolder, "READING_RULES", 999)
    read_imagefolder(folder, 8, cache=cache)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda array: os.truncate(array, 0),
        lambda array: os.truncate(array, 60),
        lambda array: os.truncate(array, array.stat().st_size - 1),
        lambda array: array.write_bytes(b"nonsense" * 1000),
        lambda array: np.save(array, np.zeros((5, 3, 8, 8), np.uint8)),
        lambda array: np.save(array, np.zeros((12, 3, 8, 8), np.int8)),
        lambda array: np.savez(array.open("wb"), np.zeros((12, 3, 8, 8), np.uint8)),
        lambda array: shutil.rmtree(array.parent),
        lambda array: gone(array.parent).mkdir(),
        lambda array: gone(array.parent).touch(),
    ],
)
def test_damaged_arrays_are_made_anew(folder: Path, cache: Path, damage: Callable[[Path], object]) -> None:
    first = read_imagefolder(folder, 8, cache=cache)
    (array,) = cache.glob("*/train-images.npy")
    kept = first.train.images_NCHW[:].clone()
    damage(array)
    assert torch.equal(read_imagefolder(folder, 8, cache=cache).train.images_NCHW[:], kept)
    assert len(list(cache.iterdir())) == 1
    assert len(list(array.parent.iterdir())) == 3


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: the resized images \(0 MB\) cannot be kept there: File exists"):
        read_imagefolder(folder, 8, cache=tmp_path / "file")


@pytest.mark.parametrize("allocates", [True, False])
def test_a_full_disk(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, allocates: bool) -> None:
    """The limit of a file's size stands in for it; only where the system allocates is it known before the work."""
    if not allocates:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    if allocates and hasattr(os, "posix_fallocate"):
        monkeypatch.setattr(Image, "open", None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 * 3 * 32 * 32 // 2, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cache: .*\(0 MB\) cannot be kept there: File too large; make room, or"):
            read_imagefolder(folder, 32, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    assert len(read_imagefolder(folder, 32, cache=cache).train) == 12


def test_where_space_cannot_be_allocated_it_is_written(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    assert read_imagefolder(folder, 8, cache=cache).test.images_NCHW[:][:, :, 4, 4].tolist()[-1] == [200, 0, 1]


SLOWLY = """
import sys, time
from pathlib import Path
from cfamc_ray.data import imagefolder
read_square = imagefolder.read_square
def slowly(*arguments, **settings):
    print("one", flush=True)
    time.sleep(float(sys.argv[3]))
    return read_square(*arguments, **settings)
imagefolder.read_square = slowly
print(len(imagefolder.read_imagefolder(Path(sys.argv[1]), 8, cache=Path(sys.argv[2])).train), "images")
"""


def slow_process(folder: Path, cache: Path, seconds: float) -> "subprocess.Popen[str]":
    """A process that resizes the images, and takes so many seconds for each; it has begun."""
    command = [sys.executable, "-c", SLOWLY, str(folder), str(cache), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_a_killed_process_leaves_is_never_used_and_removed(folder: Path, cache: Path, number: int) -> None:
    with slow_process(folder, cache, seconds=600 if number == signal.SIGKILL else 0.5) as process:
        left = [path.name for path in cache.iterdir()]
        process.send_signal(number)
    assert process.returncode != 0
    assert len(left) == 1
    assert left[0].startswith(".partial-")
    assert len(read_imagefolder(folder, 8, cache=cache).train) == 12
    assert [path.name.startswith(".") for path in cache.iterdir()] == [False]


def test_a_process_waits_for_the_one_that_resizes(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_process(folder, cache, seconds=0.2) as process:
        monkeypatch.setattr(Image, "open", None)
        assert len(read_imagefolder(folder, 8, cache=cache).train) == 12
        assert process.stdout is not None
        assert process.stdout.read().splitlines() == ["one"] * 17 + ["12 images"]
    assert len(list(cache.iterdir())) == 1


def test_without_locks_a_process_does_not_wait(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with slow_process(folder, cache, seconds=0.2) as process:
        assert len(read_imagefolder(folder, 8, cache=cache).train) == 12
        assert process.poll() is None
        assert process.stdout is not None
        assert process.stdout.read().endswith("12 images\n"), "and what the other writes is not removed"
    assert len(list(cache.iterdir())) == 1


def test_probe_and_validation_images_are_read_batch_by_batch(folder: Path, cache: Path) -> None:
    config = parse_data(
        name="imagefolder", path=str(folder), image_size=8, pretrain_images=6, probe_images=6, validation_images=3
    )
    with pytest.warns(UserWarning, match="of a single colour"):
        splits = load_splits(config, folder=cache)
    parts = (splits.probe, splits.validation, load_test(config, images=2, folder=cache))
    assert all(isinstance(part.images_NCHW, MappedImages) for part in parts)
    network = LinearClassifier(SelfSupervisedEncoder(EncoderConfig(width=4)).eval(), nn.Identity())
    together_NF = encode(network, splits.probe.images_NCHW)
    torch.testing.assert_close(encode(network, splits.probe.images_NCHW, at_once=2), together_NF)
    torch.testing.assert_close(encode(network, splits.probe.images_NCHW[:]), together_NF)


def test_long_work_is_told_once(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(imagefolder, "LONG_WORK", 18)
    for _ in range(2):
        read_imagefolder(folder, 8, cache=cache)
    (said,) = caplog.messages
    assert said.startswith("18 images are resized, once, on ")
    assert said.endswith(f" cores, into {cache}")

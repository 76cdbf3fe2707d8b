import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfamc_ray.config.errors import InputError
from cfamc_ray.data.folders import list_images
from cfamc_ray.data.images import UNLABELLED


def touch(folder: Path, *names: str) -> Path:
    """Empty files: nothing here opens an image."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def gone(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def classes(folder: str, *names: str, images: int = 2) -> list[str]:
    return [f"{folder}/{name}/{n}.png" for name in names for n in range(images)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return touch(tmp_path / "photos", *classes("train", "cat", "dog", images=3), *classes("test", "cat", "dog"))


def names(folder: Path, split: str) -> list[tuple[str, int]]:
    return [(file.name, file.label) for file in list_images(folder).splits[split]]


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "Test", "testing", "val", "VAL", "valid", "validation"])
def test_splits_have_several_names(tmp_path: Path, train: str, test: str) -> None:
    touch(tmp_path, *classes(train, "cat", "dog"), *classes(test, "cat", "dog", images=1))
    assert names(tmp_path, "test") == [(f"{test}/cat/0.png", 0), (f"{test}/dog/0.png", 1)]
    assert [label for _, label in names(tmp_path, "train")] == [0, 0, 1, 1]
    assert list_images(tmp_path).class_names == ("cat", "dog")


def test_a_test_folder_without_classes_gives_way_to_one_with_classes(photos: Path) -> None:
    touch(photos, *classes("val", "cat", "dog", images=1))
    assert len(names(photos, "test")) == 4
    shutil.rmtree(photos / "test")
    touch(photos, "test/1.png", "test/images/2.png")
    assert names(photos, "test") == [("val/cat/0.png", 0), ("val/dog/0.png", 1)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, *classes(".", "bus", "train", "test", images=5))
    listed = list_images(tmp_path)
    assert listed.class_names == ("bus", "test", "train")
    assert sorted(file.label for file in listed.splits["test"]) == [0, 1, 2]


def test_images_of_a_class_may_lie_deeper(photos: Path) -> None:
    touch(photos, "train/dog/old/1/x.png", "train/dog/old/0.png")
    assert [name for name, label in names(photos, "train") if label == 1] == [
        *("train/dog/0.png", "train/dog/1.png", "train/dog/2.png", "train/dog/old/0.png", "train/dog/old/1/x.png"),
    ]


def test_a_link_is_followed(photos: Path, tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.png")
    (photos / "train" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    (photos / "train" / "cow").symlink_to(photos / "train" / "cat")
    (photos / "test" / "cow").symlink_to(photos / "test" / "cat")
    assert ("train/dog/more/a.png", 2) in names(photos, "train")
    assert list_images(photos).class_names == ("cat", "cow", "dog")


def test_what_systems_leave_behind_is_ignored(photos: Path) -> None:
    before = list_images(photos)
    for folder in ("", "train/", "train/cat/", "test/dog/"):
        left = (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", "__MACOSX/0.png", ".git/0.png", "@eaDir/0.png")
        touch(photos, *(folder + name for name in left))
    touch(photos, "README.txt", "train/labels.csv", "annotations/0.xml")
    assert list_images(photos) == before


def test_files_that_are_no_images_are_left_out_and_told(photos: Path) -> None:
    touch(photos, "train/cat/boxes.txt", "test/cat/x.npy", "train/dog/IMG.JPG", "train/dog/without-suffix")
    listed = list_images(photos)
    assert listed.left_out == ["train/cat/boxes.txt", "test/cat/x.npy"]
    assert [file.name for file in listed.splits["train"] if file.label == 1][-2:] == [
        *("train/dog/IMG.JPG", "train/dog/without-suffix"),
    ]


@pytest.mark.parametrize("where", ["unlabelled", "train/unlabelled", "Unlabeled", "train/UNLABELED"])
def test_unlabelled_images_join_the_training_images(photos: Path, where: str) -> None:
    before = list_images(photos)
    touch(photos, f"{where}/a.png", f"{where}/deeper/b.png")
    after = list_images(photos)
    assert (after.class_names, after.splits["test"]) == (before.class_names, before.splits["test"])
    assert names(photos, "train") == [
        *((file.name, file.label) for file in before.splits["train"]),
        *((f"{where}/a.png", UNLABELLED), (f"{where}/deeper/b.png", UNLABELLED)),
    ]


def test_unlabelled_images_are_no_part_of_the_fifth_for_testing(tmp_path: Path) -> None:
    touch(tmp_path, *classes(".", "cat", "dog", images=5))
    before = list_images(tmp_path)
    touch(tmp_path, *(f"unlabelled/{n}.png" for n in range(50)))
    after = list_images(tmp_path)
    assert after.splits["test"] == before.splits["test"]
    assert after.splits["train"][:8] == before.splits["train"]
    assert [file.label for file in after.splits["train"][8:]] == [UNLABELLED] * 50


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5))
def test_the_fifth_for_testing_leaves_all_classes_in_training(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    for label, size in enumerate(sizes):
        touch(folder, *classes(".", f"{label}", images=size))
    listed = list_images(folder)
    train, test = ({file.name for file in listed.splits[split]} for split in ("train", "test"))
    assert (len(test), len(train | test)) == (-(-sum(sizes) // 5), sum(sizes))
    assert {file.label for file in listed.splits["train"]} == set(range(len(sizes)))


def link(at: Path, to: Path | str) -> None:
    at.symlink_to(to)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "photos: not a folder"),
        (
            lambda p: shutil.rmtree(p / "test"),
            "photos: train holds the folders cat, dog, so a folder test or val with the same classes is needed beside",
        ),
        (lambda p: shutil.rmtree(p / "train"), "photos: holds test, but needs one folder train"),
        (lambda p: touch(p, *classes("Train", "cat", "dog")), "photos: holds .*, but needs one folder train"),
        (lambda p: touch(p, *classes("training", "cat", "dog")), "photos: holds train, training, test, but needs one"),
        (
            lambda p: list(map(gone, (p / "train").iterdir())),
            "train: needs a folder of images for each of two classes or more, but has none",
        ),
        (
            lambda p: touch(gone(p / "train"), "cat.1.jpg", "dog.1.jpg"),
            "train: needs a folder of images for each of two classes or more, but has none",
        ),
        (lambda p: shutil.rmtree(p / "train" / "dog"), "two classes or more, but has cat"),
        (
            lambda p: touch(gone(p / "test").parent, "test/0.png", "val/images/0.png"),
            "photos: train holds the folders cat, dog, but none of them is in test or val",
        ),
        (lambda p: shutil.rmtree(p / "test" / "dog"), "train and test must have the same classes; test lacks dog"),
        (lambda p: touch(p, "test/cow/0.png"), "train and test must have the same classes; train lacks cow"),
        (lambda p: (p / "test" / "dog").rename(p / "test" / "Dog"), "test lacks dog"),
        (lambda p: touch(p, "test/unlabelled/0.png"), "test/unlabelled: test images need a class"),
        (lambda p: gone(p / "test" / "dog").mkdir(), "test/dog: has no images; it holds none"),
        (lambda p: [path.rename(f"{path}.npy") for path in (p / "test" / "dog").iterdir()], "holds 0.png.npy, 1.png.n"),
        (lambda p: (p / "unlabelled").mkdir(), "unlabelled: has no images"),
        (lambda p: link(p / "train" / "cat" / "x.png", "nowhere"), "x.png: a link to a missing file"),
        (lambda p: link(p / "train" / "cow", "nowhere"), "cow: a link to a missing file"),
        (lambda p: link(p / "train" / "cat" / "up", p / "train"), "up/cat: a link to a folder that contains it"),
        (lambda p: link(p / "train" / "cat" / "self", "self"), "self: cannot be read: Too many levels"),
        (lambda p: os.mkfifo(p / "train" / "cat" / "pipe.png"), "pipe.png: neither a file nor a folder"),
    ],
)
def test_wrong_folders(photos: Path, change: Callable[[Path], object], message: str) -> None:
    change(photos)
    with pytest.raises(InputError, match=message):
        list_images(photos)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "needs a folder of images for each of two classes or more, but has none"),
        (["0.png", "1.png"], "two classes or more, but has none"),
        (classes(".", "cat"), "two classes or more, but has cat"),
        (classes(".", "cat", "unlabelled"), "two classes or more, but has cat"),
        (classes(".", "test", "val"), "holds test, val, but needs one folder train"),
        (classes(".", "train", "test"), "train: needs a folder of images for each of two classes"),
        (["cat/0.png", "dog/0.png"], "held out for testing, which leaves none of (cat|dog)"),
    ],
)
def test_wrong_layouts(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_images(touch(tmp_path, *files))


def test_a_folder_that_may_not_be_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(folder: Path) -> object:
        if folder.name == "dog":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match="dog: cannot be read: Permission denied"):
        list_images(photos)

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from cfamc_ray.config.data import DATA_SETS, DataConfig, parse_data
from cfamc_ray.config.errors import InputError
from cfamc_ray.data import sources
from cfamc_ray.data.images import UNLABELLED, LabelledImages, Source
from cfamc_ray.data.sources import hold_source, read_source
from cfamc_ray.data.stratification import stratified_order

Arrays = dict[str, Any]


def npz(path: Path | str) -> DataConfig:
    return parse_data(name="npz", path=str(path))


@pytest.fixture
def arrays() -> Arrays:
    pixels = np.random.default_rng(0).integers(0, 256, size=(10, 4, 4, 3), dtype=np.uint8)
    return {
        "x_train": pixels[:6],
        "y_train": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
        "x_test": pixels[6:],
        "y_test": np.array([0, 1, 2, 0]),
    }


class TestDigits:
    def test_they_are_those_of_scikit_learn(self) -> None:
        source, digits = read_source(parse_data(name="digits", image_size=8)), load_digits()
        pixels_NHW = (digits.images * (255 / 16)).round()
        order = stratified_order(torch.from_numpy(digits.target), seed=0)
        images = torch.cat([split.images_NCHW[:][:, 0] for split in (source.test, source.train)])
        labels = torch.cat([split.labels_N for split in (source.test, source.train)])
        assert torch.equal(images.double(), torch.from_numpy(pixels_NHW)[order])
        assert torch.equal(labels, torch.from_numpy(digits.target)[order])
        assert list(source.class_names) == [str(name) for name in digits.target_names]

    def test_pixels_span_the_whole_range_in_three_equal_channels(self) -> None:
        source = read_source(parse_data(name="digits", image_size=8))
        images_NCHW = source.train.images_NCHW[:]
        assert images_NCHW.shape == (1437, 3, 8, 8)
        assert (images_NCHW.dtype, source.train.labels_N.dtype) == (torch.uint8, torch.int64)
        assert source.class_names == tuple("0123456789")
        assert len(np.unique(images_NCHW)) == 17
        assert (int(images_NCHW.min()), int(images_NCHW.max())) == (0, 255)
        assert torch.equal(images_NCHW[:, :1].expand(-1, 3, -1, -1), images_NCHW)

    def test_enlarging_keeps_the_mean_brightness(self) -> None:
        small, large = (read_source(parse_data(name="digits", image_size=size)).test for size in (8, 24))
        assert large.images_NCHW.shape == (360, 3, 24, 24)
        assert torch.equal(small.labels_N, large.labels_N)
        difference = small.images_NCHW[:].double().mean((1, 2, 3)) - large.images_NCHW[:].double().mean((1, 2, 3))
        assert difference.abs().max() < 5

    def test_the_test_split_holds_a_fifth_of_each_class(self) -> None:
        source = read_source(parse_data(name="digits", image_size=8))
        train, test = torch.bincount(source.train.labels_N), torch.bincount(source.test.labels_N)
        assert source.classes == len(test) == 10
        assert (test - (train + test) / 5).abs().max() <= 1


class TestNpz:
    def test_channels_move_to_the_front(self, tmp_path: Path, arrays: Arrays) -> None:
        np.savez(tmp_path / "own.npz", **arrays)
        source = read_source(npz(tmp_path / "own.npz"))
        assert torch.equal(source.train.images_NCHW[:][5, 2], torch.from_numpy(arrays["x_train"][5, :, :, 2]))
        assert source.test.labels_N.tolist() == [0, 1, 2, 0]
        assert (len(source.train), len(source.test), source.classes) == (6, 4, 3)
        assert source.train.labelled_n.tolist() == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize("axes", [3, 4])
    def test_gray_images_get_three_equal_channels(self, tmp_path: Path, arrays: Arrays, axes: int) -> None:
        for name in ("x_train", "x_test"):
            arrays[name] = arrays[name][..., 0] if axes == 3 else arrays[name][..., :1]
        np.savez_compressed(tmp_path / "gray.npz", **arrays)
        images_NCHW = read_source(npz(tmp_path / "gray.npz")).test.images_NCHW[:]
        assert images_NCHW.shape == (4, 3, 4, 4)
        assert (images_NCHW == torch.from_numpy(arrays["x_test"].reshape(4, 1, 4, 4))).all()

    @pytest.mark.parametrize(
        ("classes", "names"),
        [
            (None, ("0", "1", "2")),
            (np.array(["cat", "dog", "cow", "hen"]), ("cat", "dog", "cow")),
            (np.array([b"cat", b"dog", b"\xff"]), ("cat", "dog", "\ufffd")),
            (np.array([10, 20, 30]), ("10", "20", "30")),
            (np.array(["cat", "dog"]), ("0", "1", "2")),  # they do not reach the label 2
            (np.array("cat"), ("0", "1", "2")),
        ],
    )
    def test_classes_have_the_file_s_names(self, tmp_path: Path, arrays: Arrays, classes: Any, names: Any) -> None:
        np.savez(tmp_path / "own.npz", **arrays, **({} if classes is None else {"classes": classes}))
        source = read_source(npz(tmp_path / "own.npz"))
        assert (source.class_names, source.classes) == (names, 3)

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"])
    @settings(max_examples=25)
    @given(data=st.data())
    def test_any_integers_name_classes(
        self, tmp_path_factory: pytest.TempPathFactory, dtype: Any, data: st.DataObject
    ) -> None:
        info = np.iinfo(dtype)
        lowest = UNLABELLED if info.min else 0
        labels = data.draw(st.lists(st.integers(lowest, int(info.max)), min_size=2, max_size=12))
        classes = sorted(set(labels) - {UNLABELLED})
        assume(len(classes) >= 2)
        tested = data.draw(st.lists(st.sampled_from(classes), min_size=1, max_size=5))
        path = tmp_path_factory.mktemp("labels") / "own.npz"
        pixels = np.zeros((max(len(labels), len(tested)), 4, 4), np.uint8)
        pixels[0] = np.arange(16).reshape(4, 4)
        y_train, y_test = np.array(labels, dtype=dtype), np.array(tested, dtype=np.uint64)
        x_train, x_test = pixels[: len(labels)], pixels[: len(tested)]
        np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        source = read_source(npz(path))
        assert source.class_names == tuple(map(str, classes))
        for images, given_labels in ((source.train, labels), (source.test, tested)):
            assert images.labels_N.dtype == torch.int64
            numbers = images.labels_N.tolist()
            assert [UNLABELLED if n == UNLABELLED else classes[n] for n in numbers] == given_labels

    def test_large_numbers_cost_nothing(self, tmp_path: Path, arrays: Arrays) -> None:
        for name in ("y_train", "y_test"):
            arrays[name] = arrays[name].astype(np.int64) * 10**15 + 7
        np.savez(tmp_path / "own.npz", **arrays)
        source = read_source(npz(tmp_path / "own.npz"))
        assert (source.classes, source.train.labels_N.tolist()) == (3, [0, 1, 2, 0, 1, 2])

    def test_training_images_may_have_no_label(self, tmp_path: Path, arrays: Arrays) -> None:
        arrays["y_train"] = np.array([5, -1, 9, -1, 5, 9])
        arrays["y_test"] = np.array([9, 9, 5, 9])
        np.savez(tmp_path / "own.npz", **arrays)
        source = read_source(npz(tmp_path / "own.npz"))
        assert source.train.labels_N.tolist() == [0, UNLABELLED, 1, UNLABELLED, 0, 1]
        assert source.train.labelled_n.tolist() == [0, 2, 4, 5]
        assert (source.test.labels_N.tolist(), source.class_names) == ([1, 1, 0, 1], ("5", "9"))

    @pytest.mark.parametrize(
        ("pixels", "message"),
        [
            (lambda x: x * 0, ["all training images are equal", "all test images are equal"]),
            (
                lambda x: x[:, :1, :1].repeat(4, axis=1).repeat(4, axis=2),
                ["each of the training images is of a single colour", "each of the test images is of a single colour"],
            ),
            (lambda x: x, []),
        ],
    )
    def test_images_that_show_nothing_are_told(
        self,
        tmp_path: Path,
        arrays: Arrays,
        pixels: Callable[[np.ndarray], np.ndarray],
        message: list[str],
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        shown: Arrays = {name: pixels(array) if name[0] == "x" else array for name, array in arrays.items()}
        np.savez(tmp_path / "own.npz", **shown)
        for _ in range(2):  # the second time they are in memory
            read_source(npz(tmp_path / "own.npz"))
        assert [str(warning.message) for warning in recwarn] == [f"{tmp_path / 'own.npz'}: {text}" for text in message]

    def test_a_relative_path_is_looked_up_here_then_in_the_folder(
        self, tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "data").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "data"))
        np.savez(tmp_path / "data" / "own.npz", **arrays)
        assert len(read_source(npz("own.npz")).train) == 6
        arrays.update(x_train=arrays["x_test"], y_train=arrays["y_test"])
        np.savez(tmp_path / "here" / "own.npz", **arrays)
        assert len(read_source(npz("own.npz")).train) == 4

    def test_it_is_read_again_only_after_a_change(self, tmp_path: Path, arrays: Arrays) -> None:
        np.savez(tmp_path / "own.npz", **arrays)
        first = read_source(npz(tmp_path / "own.npz"))
        assert read_source(npz(tmp_path / "own.npz")) is first
        os.utime(tmp_path / "own.npz", ns=(1, 1))
        assert read_source(npz(tmp_path / "own.npz")) is not first

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a.pop("y_test"), "lacks y_test; it holds x_train, y_train, x_test"),
            (lambda a: a.update(x_train=a["x_train"] / 255), "x_train must be uint8 .* not float64"),
            (lambda a: a.update(x_test=a["x_test"][:, 0, 0]), r"x_test must be uint8 of shape .*\(4, 3\)"),
            (lambda a: a.update(x_test=a["x_test"].transpose(0, 3, 1, 2)), r"x_test must be .*\(4, 3, 4, 4\)"),
            (lambda a: a.update(x_train=a["x_train"][:, :2]), r"x_train must be .*\(6, 2, 4, 3\)"),
            (
                lambda a: a.update(x_train=a["x_train"][:0], y_train=a["y_train"][:0]),
                r"x_train must be .*\(0, 4, 4, 3\)",
            ),
            (lambda a: a.update(x_test=a["x_test"][:, :2, :2]), "the same image size, not 4 and 2 pixels"),
            (lambda a: a.update(y_train=a["y_train"].astype(float)), "y_train must be 6 integers.* not float64"),
            (lambda a: a.update(y_train=a["y_train"].astype(str)), "y_train must be 6 integers.* not <U3"),
            (lambda a: a.update(y_test=a["y_test"][:3]), r"y_test must be 4 integers.* not int64 of shape \(3,\)"),
            (lambda a: a.update(y_test=a["y_test"] - 1), "y_test holds -1; each test image needs a class"),
            (lambda a: a.update(y_train=a["y_train"].astype(int) - 2), "y_train holds -2; a label is 0 or more, or -1"),
            (lambda a: a.update(y_train=a["y_train"] * 0), r"y_train must hold at least 2 classes, not 1 \(\[0\]\)"),
            (lambda a: a.update(y_train=np.full(6, -1)), r"y_train must hold at least 2 classes, not 0 \(\[\]\)"),
            (lambda a: a.update(y_test=a["y_test"] + 2), "y_test holds classes that no image of y_train has: 3, 4"),
            (
                lambda a: a.update(y_test=a["y_test"] + 1, classes=np.array(["cat", "dog", "cow", "hen"])),
                "y_test holds classes that no image of y_train has: hen",
            ),
            (lambda a: a.update(y_train=a["y_train"] > 0), "y_train must be 6 integers.* not bool"),
            (lambda a: a.update(y_test=np.array([{}, 1, 2, 3])), "damaged, or holds more than plain arrays: Object"),
        ],
    )
    def test_wrong_arrays(
        self, tmp_path: Path, arrays: Arrays, change: Callable[[Arrays], object], message: str
    ) -> None:
        change(arrays)
        np.savez(tmp_path / "wrong.npz", **arrays)
        with pytest.raises(InputError, match=f"wrong.npz: .*{message}"):
            read_source(npz(tmp_path / "wrong.npz"))

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda content: b"x_train: none", "not an .npz file"),
            (lambda content: b"", "not an .npz file"),
            (lambda content: content[: len(content) // 2], "or incomplete"),
            (lambda content: content[:300] + bytes(50) + content[350:], "damaged"),
        ],
    )
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_damaged_files(
        self, tmp_path: Path, arrays: Arrays, save: Any, damage: Callable[[bytes], bytes], message: str
    ) -> None:
        path = tmp_path / "damaged.npz"
        save(path, **arrays)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(InputError, match=f"damaged.npz: .*{message}"):
            read_source(npz(path))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=f"data.path none.npz: no such file.*from {tmp_path}"):
            read_source(npz("none.npz"), folder=tmp_path)


class TestHomeless:
    """Where HOME is not set and the user has no name, as in some containers."""

    @pytest.fixture(autouse=True)
    def homeless(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(uid: int) -> None:
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.delenv("CFAMC_DATA", raising=False)
        monkeypatch.setattr("pwd.getpwuid", unknown)

    def test_digits_need_no_home(self) -> None:
        assert read_source(parse_data(name="digits", image_size=9)).train.images_NCHW.shape[-1] == 9

    def test_nor_does_a_file_that_is_there(self, tmp_path: Path, arrays: Arrays) -> None:
        np.savez(tmp_path / "own.npz", **arrays)
        assert len(read_source(npz(tmp_path / "own.npz")).train) == 6

    @pytest.mark.parametrize(
        "config",
        [parse_data(name="cifar10"), npz("none.npz"), parse_data(name="imagefolder", path="/"), npz("~/x.npz")],
    )
    def test_others_say_what_to_set(self, config: DataConfig) -> None:
        with pytest.raises(InputError, match=r"there is no home folder for ~.* variable CFAMC_DATA"):
            read_source(config)

    def test_a_user_who_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CFAMC_DATA", "~nobody-of-this-name/data")
        with pytest.raises(InputError, match="~nobody-of-this-name/data: there is no home folder"):
            read_source(parse_data(name="cifar10"))


class TestCifar:
    def test_a_packed_file_comes_first(self, tmp_path: Path, arrays: Arrays) -> None:
        np.savez(tmp_path / "cifar100.npz", **arrays)
        assert len(read_source(parse_data(name="cifar100"), folder=tmp_path).test) == 4

    def test_the_extracted_archive_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for attribute, files in (("train_list", ["data_batch_1", "data_batch_2"]), ("test_list", ["test_batch"])):
            monkeypatch.setattr(CIFAR10, attribute, [[file, None] for file in files])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
        archive = tmp_path / CIFAR10.base_folder
        archive.mkdir()
        red = np.repeat(np.array([[200, 0, 0]], dtype=np.uint8), 1024, axis=1)
        red[:, 5] = 9  # a set of single colours is warned of
        for label, file in enumerate(["data_batch_1", "data_batch_2", "test_batch"]):
            (archive / file).write_bytes(pickle.dumps({"data": red + np.uint8(label), "labels": [label]}))
        (archive / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird"]}))

        source = read_source(parse_data(name="cifar10"), folder=tmp_path)
        assert source.train.images_NCHW[:][:, :, 31, 31].tolist() == [[200, 0, 0], [201, 1, 1]]
        assert source.test.images_NCHW[:][0, :, 0, 0].tolist() == [202, 2, 2]
        assert (source.train.labels_N.tolist(), source.test.labels_N.tolist()) == ([0, 1], [2])
        assert source.class_names == ("plane", "car", "bird")

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_without_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
        def unreachable(*_: object, **__: object) -> None:
            raise URLError("no route to host")

        monkeypatch.setattr("urllib.request.urlopen", unreachable)
        with pytest.raises(InputError, match=rf"{name} is not in {tmp_path} .*no route to host.*put {name}\.npz"):
            read_source(parse_data(name=name), folder=tmp_path)

    def test_the_real_one(self) -> None:
        folder = Path(os.environ.get("CFAMC_DATA") or "absent")
        if not (folder / "cifar10.npz").is_file():
            pytest.skip("needs cifar10.npz in the folder that CFAMC_DATA names")
        source = read_source(parse_data(name="cifar10"), folder=folder)
        assert source.classes == 10
        assert source.train.images_NCHW.shape[1:] == (3, 32, 32)
        means = source.train.images_NCHW[:].double().mean((0, 2, 3)) / 255
        torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=0.01, rtol=0)


def test_a_source_that_is_held_is_given_whatever_lies_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_held", {})
    config = parse_data(name="npz", path="nowhere.npz")
    with pytest.raises(InputError, match="no such file"):
        read_source(config, folder=tmp_path)
    digits = read_source(parse_data(name="digits"))
    hold_source(config, digits)
    assert read_source(config.model_copy(update={"pretrain_images": 7}), folder=tmp_path) is digits
    with pytest.raises(InputError, match="no such file"):
        read_source(parse_data(name="npz", path="other.npz"), folder=tmp_path)


def test_a_data_set_of_one_s_own_may_be_a_folder_of_any_files(tmp_path: Path) -> None:
    class ShardsConfig(DataConfig):
        """Shards of tensors."""

        is_folder: ClassVar[bool] = True

        name: Literal["shards"] = "shards"
        path: str

        @property
        def side(self) -> int:
            return 4

        def build(self, path: Path, folder: Path) -> Source:
            pixels = torch.cat([torch.load(file) for file in sorted(path.glob("*.pt"))])
            images = LabelledImages(pixels, torch.arange(len(pixels)) % 2)
            return Source(images, images, ("a", "b"))

    DATA_SETS.register(ShardsConfig)
    try:
        torch.save(torch.randint(0, 256, (4, 3, 4, 4), dtype=torch.uint8), tmp_path / "0.pt")
        config = parse_data(name="shards", path=str(tmp_path))
        assert len(read_source(config).train) == 4
        torch.save(torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8), tmp_path / "1.pt")
        assert len(read_source(config).train) == 6, "a new file is seen"
    finally:
        del DATA_SETS.classes["shards"]

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cfamc_ray.config.data import DataConfig, parse_data
from cfamc_ray.config.errors import InputError
from cfamc_ray.data import sources
from cfamc_ray.data.images import UNLABELLED, LabelledImages, Source
from cfamc_ray.data.sources import hold_source, read_source
from cfamc_ray.data.splits import Splits, describe_test, load_splits, load_test
from cfamc_ray.data.stratification import stratified_order


def digits(**values: Any) -> DataConfig:
    counts = {"pretrain_images": 300, "probe_images": 200, "validation_images": 100}
    return parse_data(name="digits", image_size=8, **{**counts, **values})


def identities(images_NCHW: torch.Tensor) -> list[bytes]:
    """What tells the digits apart: no two of them are equal."""
    return [image_CHW.numpy().tobytes() for image_CHW in images_NCHW]


def rows(images_NCHW: torch.Tensor) -> set[bytes]:
    return set(identities(images_NCHW))


def pretrain_rows(splits: Splits) -> set[bytes]:
    return rows(splits.pretrain.batch(torch.arange(len(splits.pretrain))))


def test_counts_are_as_asked_and_no_image_is_in_two_splits() -> None:
    config = digits(probe_overlap=False)
    splits = load_splits(config)
    parts = [pretrain_rows(splits), *(rows(part.images_NCHW[:]) for part in (splits.probe, splits.validation))]
    parts.append(rows(load_test(config).images_NCHW[:]))
    assert [len(part) for part in parts] == [300, 200, 100, 360]
    assert len(set.union(*parts)) == 960
    assert splits.classes == 10


def test_an_overlapping_probe_starts_with_the_pretraining_images() -> None:
    splits = load_splits(digits())
    assert rows(splits.probe.images_NCHW[:]) < pretrain_rows(splits)


@pytest.mark.parametrize("overlap", [True, False])
def test_smaller_splits_are_parts_of_larger_ones(overlap: bool) -> None:
    small = load_splits(digits(probe_overlap=overlap))
    more_probe = load_splits(digits(probe_overlap=overlap, probe_images=500))
    more_pretrain = load_splits(digits(probe_overlap=overlap, pretrain_images=500))
    assert rows(small.probe.images_NCHW[:]) < rows(more_probe.probe.images_NCHW[:])
    assert pretrain_rows(small) < pretrain_rows(more_pretrain)
    assert torch.equal(small.validation.images_NCHW[:], more_pretrain.validation.images_NCHW[:])


def test_each_split_holds_each_class_in_proportion() -> None:
    splits = load_splits(digits())
    for part, count in ((splits.probe, 200), (splits.validation, 100)):
        sizes = torch.bincount(part.labels_N, minlength=10)
        assert len(part) == count
        assert (sizes - count / 10).abs().max() <= 2


def class_sorted(path: Path, sizes: dict[str, Sequence[int]]) -> DataConfig:
    """A file in which one class comes after the other, and no two images are equal."""
    arrays: dict[str, Any] = {}
    for split, counts in sizes.items():
        labels = np.repeat(np.arange(len(counts)), counts)
        arrays[f"x_{split}"] = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return parse_data(name="npz", path=str(path), pretrain_images=40, probe_images=30, validation_images=20)


TRAIN_SIZES, TEST_SIZES = (60, 30, 30), (40, 20, 20)


@pytest.fixture
def in_order_of_classes(tmp_path: Path) -> DataConfig:
    return class_sorted(tmp_path / "sorted.npz", {"train": TRAIN_SIZES, "test": TEST_SIZES})


def assert_in_proportion(labels_N: torch.Tensor, sizes: Sequence[int], *, slack: float) -> None:
    counts_K = torch.bincount(labels_N, minlength=len(sizes))
    shares_K = torch.tensor(sizes) / sum(sizes)
    assert (counts_K - len(labels_N) * shares_K).abs().max() <= slack


@pytest.mark.parametrize("overlap", [True, False])
def test_every_count_of_images_is_a_fair_sample_where_the_file_is_in_order_of_classes(
    in_order_of_classes: DataConfig, overlap: bool
) -> None:
    config = in_order_of_classes.model_copy(update={"probe_overlap": overlap})
    source, splits = read_source(config), load_splits(config)
    assert_in_proportion(splits.validation.labels_N, TRAIN_SIZES, slack=1.25)
    assert_in_proportion(splits.probe.labels_N, TRAIN_SIZES, slack=2.5)  # between two places of the order
    assert_in_proportion(source.train.labels_N[splits.pretrain.indices_n], TRAIN_SIZES, slack=2.5)
    for count in range(1, 81):
        assert_in_proportion(load_test(config, images=count).labels_N, TEST_SIZES, slack=1.25)


@pytest.mark.parametrize("seed", [0, 3])
def test_samples_of_test_images_are_nested_and_the_same_whatever_else_a_trial_uses(
    in_order_of_classes: DataConfig, seed: int
) -> None:
    config = in_order_of_classes.model_copy(update={"split_seed": seed})
    whole = load_test(config)
    assert len(whole) == len(load_test(config, images=1000)) == 80
    assert rows(whole.images_NCHW[:]) == rows(read_source(config).test.images_NCHW[:])
    for count in (1, 17, 80):
        for pretrain_images in (40, 50):
            sample = load_test(config.model_copy(update={"pretrain_images": pretrain_images}), images=count)
            assert torch.equal(sample.images_NCHW[:], whole.images_NCHW[:][:count])
            assert torch.equal(sample.labels_N, whole.labels_N[:count])


def test_a_record_tells_one_sample_of_test_images_from_another(in_order_of_classes: DataConfig) -> None:
    sample = describe_test(in_order_of_classes, images=20)
    assert sample == describe_test(in_order_of_classes.model_copy(update={"probe_images": 9}), images=20)
    counts = torch.bincount(load_test(in_order_of_classes, images=20).labels_N).tolist()
    assert {**sample, "digest": ""} == {"seed": 0, "images": 20, "of": 80, "images_per_class": counts, "digest": ""}
    others = [
        describe_test(in_order_of_classes, images=19),
        describe_test(in_order_of_classes.model_copy(update={"split_seed": 1}), images=20),
    ]
    assert len({each["digest"] for each in (sample, *others)}) == 3
    assert describe_test(in_order_of_classes, images=1000)["images_per_class"] == list(TEST_SIZES)


def test_labels_belong_to_their_images() -> None:
    source, splits = read_source(digits()), load_splits(digits())
    label_of = dict(zip(identities(source.train.images_NCHW[:]), source.train.labels_N.tolist(), strict=True))
    assert [
        label_of[identity] for identity in identities(splits.probe.images_NCHW[:])
    ] == splits.probe.labels_N.tolist()


def test_the_split_seed_decides_which_images_but_not_the_test_split() -> None:
    first, second = digits(split_seed=0), digits(split_seed=1)
    assert not torch.equal(load_splits(first).validation.images_NCHW[:], load_splits(second).validation.images_NCHW[:])
    assert rows(load_test(first).images_NCHW[:]) == rows(load_test(second).images_NCHW[:])
    assert rows(load_test(first, images=50).images_NCHW[:]) != rows(load_test(second, images=50).images_NCHW[:])


def test_all_training_images_may_be_used() -> None:
    splits = load_splits(digits(pretrain_images=1337, probe_images=1337))
    assert len(splits.pretrain) + len(splits.validation) == 1437


@pytest.mark.parametrize(
    ("overlap", "probe"),
    [(True, ("fa3df57517ea682d", "9cdd186a21ba5c3a")), (False, ("d67377898b163217", "c3c1c0f40c1684b8"))],
)
def test_splits_are_pinned(overlap: bool, probe: tuple[str, str]) -> None:
    """Finished studies name their images by counts and seed alone."""
    splits = load_splits(digits(probe_overlap=overlap))
    pretrain = splits.pretrain.batch(torch.arange(300))
    parts = (pretrain, splits.validation.images_NCHW[:], splits.validation.labels_N)
    found = [hashlib.sha256(part.numpy().tobytes()).hexdigest()[:16] for part in parts]
    assert found == ["cdda5e4c87b84f7c", "7ece6253f053e91d", "59cc4ce04c21ea07"]
    for part, expected in zip((splits.probe.images_NCHW[:], splits.probe.labels_N), probe, strict=True):
        assert hashlib.sha256(part.numpy().tobytes()).hexdigest()[:16] == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pretrain_images": 1338}, r"data\.validation_images 100 \+ data\.pretrain_images 1338 .* need 1438 .* 1437"),
        ({"probe_images": 1338}, r"data\.probe_images 1338 need 1438 .* 1437"),
        ({"validation_images": 1138}, r"data\.validation_images 1138 .* need 1438 .* 1437"),
        ({"probe_images": 1038, "probe_overlap": False}, r"300 \+ data\.probe_images 1038 need 1438 .* 1437"),
    ],
)
def test_too_few_images(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_splits(digits(**values))


class TestUnlabelled:
    """Images by position: the n-th has the pixel values n // 256 and n % 256."""

    @staticmethod
    def split(labels: list[int], **values: Any) -> tuple[Splits, list[list[int]]]:
        """The splits, and where the images of pretraining, probe and validation stand."""
        labels_N = torch.tensor(labels)
        images_NCHW = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
        images_NCHW[:, 0, 0, 0], images_NCHW[:, 1, 0, 0] = (
            torch.arange(len(labels)) // 256,
            torch.arange(len(labels)) % 256,
        )
        images = LabelledImages(images_NCHW, labels_N)
        config = parse_data(name="npz", path="held", **values)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "_held", {})
            hold_source(config, Source(images, images, ("a", "b", "c")))
            splits = load_splits(config)
        return splits, [
            [256 * int(image[0, 0, 0]) + int(image[1, 0, 0]) for image in part]
            for part in (
                splits.pretrain.batch(torch.arange(len(splits.pretrain))),
                splits.probe.images_NCHW,
                splits.validation.images_NCHW,
            )
        ]

    cases = given(
        labels=st.lists(st.integers(UNLABELLED, 2), min_size=8, max_size=300).filter(
            lambda labels: sum(label >= 0 for label in labels) >= 6
        ),
        validation=st.integers(0, 40),
        seed=st.integers(0, 1000),
        overlap=st.booleans(),
        data=st.data(),
    )

    @settings(max_examples=60)
    @cases
    def test_they_pretrain_and_do_nothing_else(
        self, labels: list[int], validation: int, seed: int, overlap: bool, data: st.DataObject
    ) -> None:
        position = [n for n, label in enumerate(labels) if label != UNLABELLED]
        validation = min(validation, len(position) - 2)
        pool = len(labels) - validation
        pretrain_images = data.draw(st.integers(2, pool if overlap else 2 + pool // 4))
        counts: dict[str, Any] = {"validation_images": validation, "split_seed": seed, "probe_images": 2}
        counts |= {"pretrain_images": pretrain_images, "probe_overlap": overlap}
        assume(overlap or len(position) - validation - pretrain_images >= 2)
        splits, (pretrain, probe, validated) = self.split(labels, **counts)

        assert [len(pretrain), len(probe), len(validated)] == [pretrain_images, 2, validation]
        assert not {*validated} & {*pretrain, *probe}
        assert overlap or not {*probe} & {*pretrain}
        assert {*probe, *validated} <= {*position}
        assert splits.probe.labels_N.tolist() == [labels[n] for n in probe]
        assert splits.validation.labels_N.tolist() == [labels[n] for n in validated]
        unlabelled = sum(labels[n] == UNLABELLED for n in pretrain)
        assert abs(unlabelled - len(pretrain) * (len(labels) - len(position)) / pool) <= 1

        _, (fewer, _, _) = self.split(labels, **{**counts, "pretrain_images": 2})
        assert fewer == pretrain[:2]
        counts |= {"probe_overlap": True, "pretrain_images": len(position) - validation}
        _, alone = self.split([labels[n] for n in position], **counts)
        pretrain_alone, probe_alone, validated_alone = ([position[n] for n in part] for part in alone)
        assert validated_alone == validated
        assert [n for n in pretrain if labels[n] != UNLABELLED] == pretrain_alone[: len(pretrain) - unlabelled]
        assert not overlap or probe_alone == probe

    @settings(max_examples=60)
    @cases
    def test_without_them_each_split_is_what_it_always_was(
        self, labels: list[int], validation: int, seed: int, overlap: bool, data: st.DataObject
    ) -> None:
        labels = [label for label in labels if label >= 0]
        validation = min(validation, len(labels) - 4)
        pretrain = data.draw(st.integers(2, len(labels) - validation - 2))
        probe = data.draw(st.integers(2, len(labels) - validation - (0 if overlap else pretrain)))
        _, found = self.split(
            labels,
            validation_images=validation,
            pretrain_images=pretrain,
            probe_images=probe,
            probe_overlap=overlap,
            split_seed=seed,
        )
        order = stratified_order(torch.tensor(labels), seed).tolist()
        rest = order[validation:]
        assert found == [rest[:pretrain], (rest if overlap else rest[pretrain:])[:probe], order[:validation]]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"pretrain_images": 96},
                r"validation_images 5 \+ .*pretrain_images 96 .* need 101 .* held has 100, of which 20",
            ),
            (
                {"probe_images": 16},
                r"5 \+ data\.probe_images 16 need 21 labelled .* held has 100, of which 20 are labelled",
            ),
            (
                {"validation_images": 17},
                r"17 \+ data\.probe_images 4 need 21 labelled .*of which 20 are labelled: lower",
            ),
            (
                {"pretrain_images": 80, "probe_overlap": False},
                r"probe_images 4 must not overlap pretraining .* only 2 of the 20 labelled training images of held",
            ),
            ({"pretrain_images": 95}, ""),
            ({"probe_images": 15}, ""),
        ],
    )
    def test_too_few(self, values: dict[str, Any], message: str) -> None:
        labels = [n % 2 if n % 5 == 0 else UNLABELLED for n in range(100)]
        counts: dict[str, Any] = {"validation_images": 5, "pretrain_images": 10, "probe_images": 4, **values}
        if not message:
            assert self.split(labels, **counts)
            return
        with pytest.raises(InputError, match=message):
            self.split(labels, **counts)


def npz(path: Path, *, classes: int, images: int = 60, seed: int = 0) -> DataConfig:
    """A file of noise, and what names it: 20 images to pretrain, 15 to probe, 10 to validate."""
    rng = np.random.default_rng(seed)
    pixels, labels = rng.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8), np.arange(images) % classes
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels[:classes], y_test=labels[:classes])
    return parse_data(name="npz", path=str(path), pretrain_images=20, probe_images=15, validation_images=10)


def test_a_transfer_takes_all_labelled_images_from_the_other_data_set(tmp_path: Path) -> None:
    own, other = npz(tmp_path / "own.npz", classes=2), npz(tmp_path / "other.npz", classes=5, seed=1)
    alone, target, both = load_splits(own), load_splits(other), load_splits(own, judged_on=other)
    assert pretrain_rows(both) == pretrain_rows(alone)
    assert not pretrain_rows(both) & pretrain_rows(target)
    for part, expected in ((both.probe, target.probe), (both.validation, target.validation)):
        assert torch.equal(part.images_NCHW[:], expected.images_NCHW[:])
        assert torch.equal(part.labels_N, expected.labels_N)
    assert (len(both.pretrain), len(both.probe), len(both.validation), both.classes) == (20, 15, 10, 5)


def test_judged_on_its_own_data_set_a_trial_has_its_own_splits(tmp_path: Path) -> None:
    own = npz(tmp_path / "own.npz", classes=2)
    alone = load_splits(own)
    for same in (load_splits(own, judged_on=None), load_splits(own, judged_on=own.model_copy())):
        assert pretrain_rows(same) == pretrain_rows(alone)
        assert torch.equal(same.probe.images_NCHW[:], alone.probe.images_NCHW[:])
        assert torch.equal(same.validation.images_NCHW[:], alone.validation.images_NCHW[:])


def test_a_transfer_finds_both_data_sets_in_the_given_folder(tmp_path: Path) -> None:
    own, other = (
        npz(tmp_path / f"{name}.npz", classes=classes).model_copy(update={"path": f"{name}.npz"})
        for name, classes in (("own", 2), ("other", 5))
    )
    assert load_splits(own, judged_on=other, folder=tmp_path).classes == 5


def test_a_transfer_may_judge_a_trial_that_held_nothing_out(tmp_path: Path) -> None:
    other = npz(tmp_path / "other.npz", classes=5)
    own = npz(tmp_path / "own.npz", classes=2).model_copy(update={"pretrain_images": 60, "validation_images": 0})
    splits = load_splits(own, judged_on=other)
    assert (len(splits.pretrain), len(splits.validation)) == (60, 10)


@pytest.mark.parametrize("which", ["own", "other"])
def test_a_transfer_has_enough_images_of_either_set(tmp_path: Path, which: str) -> None:
    own, other = npz(tmp_path / "own.npz", classes=2), npz(tmp_path / "other.npz", classes=5)
    key = {"own": "pretrain_images", "other": "probe_images"}[which]
    changed = {"own": own, "other": other}[which].model_copy(update={key: 51})
    own, other = (changed, other) if which == "own" else (own, changed)
    with pytest.raises(InputError, match=rf"need 61 training images, but .*{which}\.npz has 60"):
        load_splits(own, judged_on=other)

import pytest
import torch

from cfamc_ray.data.images import UNLABELLED, ImageSubset, LabelledImages, uniformity


@pytest.fixture
def images_NCHW() -> torch.Tensor:  # noqa: N802 (a fixture is the tensor it returns)
    return torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).repeat(1, 3, 2, 2)


def test_take_keeps_images_and_labels_together(images_NCHW: torch.Tensor) -> None:
    taken = LabelledImages(images_NCHW, torch.tensor([10, 11, 12, 13, 14])).take(torch.tensor([4, 0]))
    assert len(taken) == 2
    assert taken.images_NCHW[:][:, 0, 0, 0].tolist() == [4, 0]
    assert taken.labels_N.tolist() == [14, 10]


def test_unlabelled_images_are_told_from_labelled_ones(images_NCHW: torch.Tensor) -> None:
    images = LabelledImages(images_NCHW, torch.tensor([0, UNLABELLED, 3, UNLABELLED, 0]))
    assert images.labelled_n.tolist() == [0, 2, 4]


def test_images_that_differ_and_have_a_pattern_are_as_they_should_be(images_NCHW: torch.Tensor) -> None:
    assert uniformity(images_NCHW) == "each of the {} is of a single colour"
    assert uniformity(images_NCHW[[2, 2]]) == "all {} are equal"
    images_NCHW[4, 2, 1, 1] = 0
    assert uniformity(images_NCHW) is None
    assert uniformity(images_NCHW[[4, 4]]) == "all {} are equal"
    assert uniformity(images_NCHW[[4]]) is None, "a single image is like no other"


def test_a_batch_counts_positions_within_the_subset(images_NCHW: torch.Tensor) -> None:
    subset = ImageSubset(images_NCHW, torch.tensor([3, 1, 4]))
    assert len(subset) == 3
    batch_BCHW = subset.batch(torch.tensor([2, 0]))
    assert batch_BCHW.shape == (2, 3, 2, 2)
    assert batch_BCHW.dtype == torch.uint8
    assert batch_BCHW[:, 0, 0, 0].tolist() == [4, 3]


def test_to_the_device_where_it_is_copies_nothing(images_NCHW: torch.Tensor) -> None:
    subset = ImageSubset(images_NCHW, torch.tensor([3, 1]))
    assert subset.to(torch.device("cpu")) is subset


def test_to_another_device_moves_the_selected_images_alone(images_NCHW: torch.Tensor) -> None:
    moved = ImageSubset(images_NCHW, torch.tensor([3, 1])).to(torch.device("meta"))
    assert len(moved) == 2
    assert moved.images_NCHW.shape == (2, 3, 2, 2)
    assert moved.images_NCHW.device.type == moved.indices_n.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_equal_on_a_gpu(images_NCHW: torch.Tensor) -> None:
    subset, positions = ImageSubset(images_NCHW, torch.tensor([3, 1, 4])), torch.tensor([2, 0])
    moved = subset.to(torch.device("cuda"))
    assert torch.equal(moved.batch(positions).cpu(), subset.batch(positions))
    assert torch.equal(moved.batch(positions.cuda()).cpu(), subset.batch(positions))

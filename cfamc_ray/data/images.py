"""Types for images, labelled images, subsets and data sets.

N images, of which n are selected and B make a batch; C = 3 channels, H height, W width. Pixels are uint8 from 0 to 255.
"""

from dataclasses import dataclass

import torch

from cfamc_ray.data.mapped import Images, select

UNLABELLED = -1
"""Label of an image without a class, which is used only for pretraining."""
COPIED_AT_ONCE = 1_000
"""Number of images that are copied to a device at once, which bounds the host's memory."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images_NCHW: uint8, in memory or in a file.
        labels_N: int64, from 0 to the number of classes minus one; `UNLABELLED` for training images without a class.
    """

    images_NCHW: Images
    labels_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def labelled_n(self) -> torch.Tensor:
        """Indices of the images that have a class: int64, ascending."""
        return (self.labels_N != UNLABELLED).nonzero().flatten()

    def take(self, indices_n: torch.Tensor) -> "LabelledImages":
        """The images at some indices, in their order: a copy, or, of images in a file, a selection that is not read."""
        return LabelledImages(select(self.images_NCHW, indices_n), self.labels_N[indices_n])


@dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as it was published.

    Attributes:
        train: training images, of which some may be unlabelled.
        test: test images, all labelled, with no class that `train` lacks.
        class_names: names of the classes, in the order of the labels.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class ImageSubset:
    """Some images of a larger set, gathered batch by batch, so that images in a file stay there.

    Attributes:
        images_NCHW: uint8, the larger set.
        indices_n: int64, indices of the selected images in the larger set.
        labels_N: labels of the larger set, for losses that need them; None if there are none.
    """

    images_NCHW: Images
    indices_n: torch.Tensor
    labels_N: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices_n)

    def batch(self, positions_B: torch.Tensor) -> torch.Tensor:
        """The uint8 images_BCHW at some positions, each from 0 to the subset's length minus one."""
        return self.images_NCHW[self.indices_n[positions_B]]

    def labels(self, positions_B: torch.Tensor) -> torch.Tensor:
        """The labels_B at some positions; `UNLABELLED` if there are no labels."""
        if self.labels_N is None:
            return torch.full_like(positions_B, UNLABELLED)
        return self.labels_N[self.indices_n[positions_B]]

    def to(self, device: torch.device) -> "ImageSubset":
        """Copy only the selected images to a device; return the subset itself if the larger set is there already."""
        there = self.images_NCHW.device
        if device.type == there.type and device.index in (None, there.index):
            return self
        labels_n = None if self.labels_N is None else self.labels_N[self.indices_n].to(device)
        images_nCHW = torch.empty(len(self), *self.images_NCHW.shape[1:], dtype=torch.uint8, device=device)
        for begin in range(0, len(self), COPIED_AT_ONCE):
            part = torch.arange(begin, min(begin + COPIED_AT_ONCE, len(self)))
            images_nCHW[begin : begin + len(part)] = self.batch(part).to(device)
        return ImageSubset(images_nCHW, torch.arange(len(self), device=device), labels_n)


def uniformity(images_NCHW: Images) -> str | None:
    """Describe images that have nothing to learn from: all are equal, or each is of a single colour.

    Args:
        images_NCHW: at least one image; the check stops at the first image that differs.

    Returns:
        A sentence with braces in place of the images' name; None if the images are fine.
    """
    if len(images_NCHW) > 1 and all(torch.equal(image_CHW, images_NCHW[0]) for image_CHW in images_NCHW):
        return "all {} are equal"
    if all(bool((image_CHW == image_CHW[:, :1, :1]).all()) for image_CHW in images_NCHW):
        return "each of the {} is of a single colour"
    return None

"""The values that the other modules pass around.

N images, of which n are selected and B make a batch; C = 3 channels, H height, W width. Pixels are uint8 from 0 to 255.
"""

from dataclasses import dataclass

import torch

UNLABELLED = -1
"""In place of the class of an image that can only pretrain."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images_NCHW: uint8, in memory or memory-mapped.
        labels_N: int64, from 0 to the number of classes minus one; `UNLABELLED` for training images without a class.
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def labelled_n(self) -> torch.Tensor:
        """int64: where the images that have a class stand, ascending."""
        return (self.labels_N != UNLABELLED).nonzero().flatten()

    def take(self, indices_n: torch.Tensor) -> "LabelledImages":
        """A copy of some of the images, in the order of the indices."""
        return LabelledImages(self.images_NCHW[indices_n], self.labels_N[indices_n])


@dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as it was published.

    Attributes:
        train: some of them may be unlabelled.
        test: all labelled, with no class that `train` lacks.
        class_names: one for each class, in the order of the labels.
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
    """Some images of a larger set, gathered batch by batch: a memory-mapped set stays on disk.

    Attributes:
        images_NCHW: uint8, the larger set.
        indices_n: int64, where in the larger set the selected images stand.
        labels_N: of the larger set, for losses that need them; None where there are none.
    """

    images_NCHW: torch.Tensor
    indices_n: torch.Tensor
    labels_N: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices_n)

    def batch(self, positions_B: torch.Tensor) -> torch.Tensor:
        """The uint8 images_BCHW at some positions, each from 0 to the subset's length minus one."""
        return self.images_NCHW[self.indices_n[positions_B]]

    def labels(self, positions_B: torch.Tensor) -> torch.Tensor:
        """The labels_B at some positions; `UNLABELLED` where there are none."""
        if self.labels_N is None:
            return torch.full_like(positions_B, UNLABELLED)
        return self.labels_N[self.indices_n[positions_B]]

    def to(self, device: torch.device) -> "ImageSubset":
        """The selected images alone, copied to a device; the subset itself where the larger set is there already."""
        there = self.images_NCHW.device
        if device.type == there.type and device.index in (None, there.index):
            return self
        labels_n = None if self.labels_N is None else self.labels_N[self.indices_n].to(device)
        images_nCHW = self.images_NCHW[self.indices_n].to(device)
        return ImageSubset(images_nCHW, torch.arange(len(self), device=device), labels_n)


def uniformity(images_NCHW: torch.Tensor) -> str | None:
    """What leaves nothing to learn from images: they are all alike, or each of them is of one colour.

    Args:
        images_NCHW: at least one; they are looked at up to the first that is neither.

    Returns:
        A sentence with braces in place of the images' name; None for images as they should be.
    """
    if len(images_NCHW) > 1 and all(torch.equal(image_CHW, images_NCHW[0]) for image_CHW in images_NCHW):
        return "all {} are alike"
    if all(bool((image_CHW == image_CHW[:, :1, :1]).all()) for image_CHW in images_NCHW):
        return "each of the {} is of a single colour"
    return None

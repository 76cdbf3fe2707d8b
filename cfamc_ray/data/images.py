"""The values that the other modules pass around.

N images, of which n are selected and B make a batch; C = 3 channels, H height, W width. Pixels are uint8 from 0 to 255.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images_NCHW: uint8, in memory or memory-mapped.
        labels_N: int64, from 0 to the number of classes minus one.
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, indices_n: torch.Tensor) -> "LabelledImages":
        """A copy of some of the images, in the order of the indices."""
        return LabelledImages(self.images_NCHW[indices_n], self.labels_N[indices_n])


@dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as it was published."""

    train: LabelledImages
    test: LabelledImages
    classes: int


@dataclass(frozen=True, eq=False)
class ImageSubset:
    """Some images of a larger set, without labels, gathered batch by batch: a memory-mapped set stays on disk.

    Attributes:
        images_NCHW: uint8, the larger set.
        indices_n: int64, where in the larger set the selected images stand.
    """

    images_NCHW: torch.Tensor
    indices_n: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices_n)

    def batch(self, positions_B: torch.Tensor) -> torch.Tensor:
        """The uint8 images_BCHW at some positions, each from 0 to the subset's length minus one."""
        return self.images_NCHW[self.indices_n[positions_B]]

    def to(self, device: torch.device) -> "ImageSubset":
        """The selected images alone, copied to a device; the subset itself where the larger set is there already."""
        if device == self.images_NCHW.device:
            return self
        return ImageSubset(self.images_NCHW[self.indices_n].to(device), torch.arange(len(self), device=device))

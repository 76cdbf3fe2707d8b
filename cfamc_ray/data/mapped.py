"""Images in a file that may be larger than the memory: they are read only when they are needed.

N images, of which n are selected; C = 3 channels, H height, W width. Pixels are uint8 from 0 to 255.
"""

import math
import mmap
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import write_array_header_1_0

Shape = tuple[int, int, int, int]
"""Shape (N, C, H, W) of an array of images."""


class MappedImages:
    """Some images of an .npy file, in an order of their own; indexing reads them, as it does a tensor images_NCHW.

    The system's page cache holds what was read, for all processes of the machine. It does not count as memory of the
    process, and the system takes it back when memory is short.

    Args:
        file: the mapped file.
        whole_NCHW: all images of the file.
        indices_n: int64, indices of the selected images in the file.
    """

    device = torch.device("cpu")

    def __init__(self, file: mmap.mmap, whole_NCHW: npt.NDArray[np.uint8], indices_n: torch.Tensor) -> None:
        self._file, self._whole_NCHW, self._indices_n = file, whole_NCHW, indices_n

    @property
    def shape(self) -> torch.Size:
        """Shape (n, C, H, W)."""
        return torch.Size((len(self), *self._whole_NCHW.shape[1:]))

    def __len__(self) -> int:
        return len(self._indices_n)

    def __getitem__(self, picked: int | slice | torch.Tensor) -> torch.Tensor:
        """Read images into memory."""
        images = torch.from_numpy(np.take(self._whole_NCHW, self._indices_n[picked].numpy(), axis=0))
        self._file.madvise(mmap.MADV_DONTNEED)  # the pages stay in the page cache, but leave this process
        return images

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[n] for n in range(len(self)))

    def take(self, indices_m: torch.Tensor) -> "MappedImages":
        """The images at some indices, without reading them."""
        return MappedImages(self._file, self._whole_NCHW, self._indices_n[indices_m])


Images = torch.Tensor | MappedImages
"""Images uint8 (N, C, H, W), in memory or in a file."""


def select(images_NCHW: Images, indices_n: torch.Tensor) -> Images:
    """The images at some indices: a copy of those in memory, those in a file without reading them."""
    return images_NCHW.take(indices_n) if isinstance(images_NCHW, MappedImages) else images_NCHW[indices_n]


def header(shape: Shape) -> bytes:
    """The first bytes of an .npy file of images; the pixels follow."""
    written = BytesIO()
    write_array_header_1_0(written, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return written.getvalue()


def map_images(path: Path, shape: Shape) -> MappedImages | None:
    """Map the images of a file; None if they are missing, incomplete or of another shape."""
    begins = header(shape)
    try:
        with path.open("rb") as file:
            if file.read(len(begins)) != begins or path.stat().st_size != len(begins) + math.prod(shape):
                return None
            # Read-only: the system refuses a writable private mapping that is larger than the memory.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    whole_NCHW = np.frombuffer(mapped, np.uint8, offset=len(begins)).reshape(shape)
    return MappedImages(mapped, whole_NCHW, torch.arange(shape[0]))

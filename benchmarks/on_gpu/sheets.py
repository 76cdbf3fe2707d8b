"""A data set as lossless WebP sheets, about 1,660 bytes an image of CIFAR-10; wider sheets and other codecs take more.

A sheet is a column of images, so that its pixels are those of the images one after another.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGES = 500
"""Of a sheet: WebP ends at 16,383 pixels."""
LABELS = "labels.npz"


def write_sheet(path: Path, images_NHWC: npt.NDArray[np.uint8]) -> int:
    """Write at most `IMAGES` images of 32 x 32 pixels; the bytes that they take."""
    _, _, W, C = images_NHWC.shape
    Image.fromarray(images_NHWC.reshape(-1, W, C)).save(path, lossless=True, method=4)
    return path.stat().st_size


def unpack(folder: Path, npz: Path) -> dict[str, int]:
    """Make the .npz file of a data set from its sheets; the number of images by split."""
    arrays = dict(np.load(folder / LABELS))
    for split in ("train", "test"):
        sheets = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob(f"{split}-*.webp"))]
        x = arrays[f"x_{split}"] = np.concatenate([sheet.reshape(-1, *[sheet.shape[1]] * 2, 3) for sheet in sheets])
        arrays[f"y_{split}"] = arrays[f"y_{split}"][: len(x)]
    npz.parent.mkdir(parents=True, exist_ok=True)
    np.savez(npz, **arrays)
    return {split: len(arrays[f"x_{split}"]) for split in ("train", "test")}

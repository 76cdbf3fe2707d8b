"""JPEG files that are as large and as hard to decode as photographs, for benchmarks and tests.

H/W height/width, S side of a field, C = 3 channels.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

QUALITY = 90
"""Of the JPEG files: an image of 500x375 pixels then takes about 120 kB, as in ImageNet."""
FIELDS = 8
"""Fields of noise, of which all images are windows."""
CLASS_CONTRAST = 20
"""Amplitude of the tint by which classes differ, in grey levels."""


def noise_field(side: int, seed: int) -> npt.NDArray[np.float32]:
    """Noise whose amplitude falls with the frequency, as in photographs, mostly equal in all channels.

    Returns:
        Values field_SSC around 118 grey levels; the field continues periodically.
    """
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    phases = np.exp(2j * np.pi * generator.random((4, *frequency.shape)))
    noise_4SS = np.fft.irfft2(phases / np.maximum(frequency, 1 / side), s=(side, side))
    grey_SS, *colours_CSS = noise_4SS / noise_4SS.std(axis=(1, 2), keepdims=True)
    field_SSC: npt.NDArray[np.float64] = 118 + 50 * grey_SS[..., None] + 20 * np.stack(colours_CSS, axis=-1)
    return field_SSC.astype(np.float32)


def as_image(window_HWC: npt.NDArray[np.float32]) -> Image.Image:
    """The image of a window of a field."""
    return Image.fromarray(window_HWC.clip(0, 255).astype(np.uint8))


def write_photographs(
    folder: Path, images: int, *, classes: int, sides: tuple[int, int] = (256, 500), test_share: float = 0.2
) -> None:
    """Write JPEG files of random sizes into ``train/CLASS`` and ``test/CLASS``; files that are there already are kept.

    Args:
        folder: the folder; with the same arguments it always gets the same files.
        images: number of images.
        classes: number of classes, which differ in their tint.
        sides: smallest and largest height and width in pixels.
        test_share: fraction of the images of each class that are test images.
    """
    fields = [noise_field(2 * sides[1], seed) for seed in range(min(FIELDS, images))]
    for n in range(images):
        split = "test" if n // classes < test_share * images / classes else "train"
        file = folder / split / f"{n % classes:03d}" / f"{n:06d}.jpg"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            image = _photograph(fields[n % len(fields)], sides, hue=n % classes / classes, seed=n)
            image.save(partial := file.with_suffix(".partial"), "JPEG", quality=QUALITY)
            partial.rename(file)


def _photograph(field_SSC: npt.NDArray[np.float32], sides: tuple[int, int], *, hue: float, seed: int) -> Image.Image:
    """A window of random place and size."""
    generator = np.random.default_rng(seed)
    H, W = generator.integers(*sides, size=2, endpoint=True)
    top, left = generator.integers(len(field_SSC), size=2)
    rows_HSC = field_SSC.take(np.arange(top, top + H), axis=0, mode="wrap")
    window_HWC = rows_HSC.take(np.arange(left, left + W), axis=1, mode="wrap")
    tint_C = CLASS_CONTRAST * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    return as_image(window_HWC + tint_C.astype(np.float32))

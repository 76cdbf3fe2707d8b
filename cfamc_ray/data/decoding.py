"""An image file as square RGB pixels, whatever its mode, bit depth, transparency or orientation.

C = 3 channels, H = W = the image size. Pixels are uint8 from 0 to 255.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from cfamc_ray.config.errors import InputError

READING_RULES = 3
"""Version of the rules below; raise it when a file would give other pixels, so that older caches are not used."""
DRAFT_SCALE = 3
"""JPEG files are decoded at a half, a quarter or an eighth of their size if that is still this many times the size that
they are resized to: faster for large photographs, and pixels change by about half a grey level."""
BACKGROUND = (255, 255, 255)
"""Background colour behind transparent pixels (RGB)."""
BITS_PER_SAMPLE, PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO = 258, 262, 0
"""Two tags of a TIFF file, and a value of the second tag."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns an image upright, by EXIF orientation."""


def read_square(file: Path, image_size: int) -> npt.NDArray[np.uint8]:
    """Read an image, turn it upright, resize its shorter side and crop the longer one to its centre.

    Of a file with several frames, the first is read. See `to_rgb` for the colours.

    Args:
        file: any file that Pillow can open.
        image_size: height and width in pixels.

    Returns:
        pixels_CHW.

    Raises:
        InputError: if the file is not an image, is damaged, or holds values of an unknown range.
    """
    try:
        with Image.open(file) as image:
            drafted = image.draft(None, (DRAFT_SCALE * image_size,) * 2)
            image.load()
            # Of a reduced JPEG file the last column or row may be covered only partly.
            width, height = drafted[1][2:] if drafted else image.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            # Pillow's bilinear filter widens with the reduction, so it antialiases.
            square = to_rgb(image).resize(
                (image_size, image_size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
            )
            upright = _turned(square, _orientation(image))
    except Exception as error:  # Pillow's decoders raise any exception on damaged files
        raise InputError(f"{file}: cannot be read as an image: {error}") from None
    return np.asarray(upright).transpose(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB.

    Transparent pixels are composited on white. Grey values of 16 bits (or fewer, if a TIFF file says so) are scaled
    from their whole range, floating-point values from the range 0 to 1.

    Args:
        image: loaded image of any mode.

    Raises:
        ValueError: if the range of the values is unknown, or values lie outside it.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow converts La only to LA
    colours = straight.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), colours).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a grey image of more than 8 bits to mode L, or to LA if one of its values means transparent."""
    values = np.asarray(image, dtype=np.float64)
    white = _white(image)
    if white is None:
        raise ValueError(f"mode {image.mode} does not define which value is white; save it with 8 or 16 bits unsigned")
    if not (values.min() >= 0 and values.max() <= white):  # nor NaN
        raise ValueError(
            f"values of mode {image.mode} must be from 0 to {white:g}, not from {values.min():g} to {values.max():g}"
        )
    tags = _tiff_tags(image)
    bright = white - values if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO else values
    grey = Image.fromarray(np.rint(bright * (255 / white)).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _white(image: Image.Image) -> float | None:
    """The value of white in a grey image of more than 8 bits; None if the file does not define it."""
    if image.mode == "F":
        return 1.0
    if image.mode == "I":  # Pillow scales PGM files to 16 bits; before version 11 it used this mode for PNG files too
        return 65535.0 if image.format in ("PPM", "PNG") else None
    if image.format == "FITS":  # of any range, and signed
        return None
    bits, *_ = _tiff_tags(image).get(BITS_PER_SAMPLE, (16,))
    return float(2**bits - 1)


def _tiff_tags(image: Image.Image) -> dict[int, Any]:
    return dict(getattr(image, "tag_v2", {}))


def _orientation(image: Image.Image) -> int | None:
    try:
        orientation: int | None = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data is ignored; the pixels are intact
        return None
    return orientation


def _turned(image: Image.Image, orientation: int | None) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image

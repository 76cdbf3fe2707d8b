"""An image file as square RGB pixels, whatever its mode, bit depth, transparency or orientation.

C = 3 channels, H = W = the image size. Pixels are uint8 from 0 to 255.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from cfamc_ray.config.errors import InputError

READING_RULES = 2
"""Version of the rules below, to be raised whenever a file would give other pixels: no older cache is used then."""
BACKGROUND = (255, 255, 255)
"""Shows through where an image is transparent."""
BITS_PER_SAMPLE, PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO = 258, 262, 0
"""Tags of a TIFF file, and a value of the second."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""


def read_square(file: Path, image_size: int) -> npt.NDArray[np.uint8]:
    """Read an image, turn it upright, resize its shorter side and crop the longer one to its centre.

    The first frame is taken of a file with several ones. See `to_rgb` for the colours.

    Args:
        file: anything that Pillow opens.
        image_size: height and width in pixels.

    Returns:
        pixels_CHW.

    Raises:
        InputError: where the file is no image, is damaged, or holds values of an unknown range.
    """
    try:
        with Image.open(file) as image:
            image.load()
            upright = _turned(to_rgb(image), _orientation(image))
        # Pillow's bilinear filter widens with the reduction, so it antialiases.
        square = ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BILINEAR)
    except Exception as error:  # on damaged files Pillow's decoders raise whatever comes
        raise InputError(f"{file}: cannot be read as an image: {error}") from None
    return np.asarray(square).transpose(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB.

    Transparency is composited on white. Grey values of 16 bits (or of fewer, in a TIFF file that says so) are scaled
    from their whole range, floating-point ones from 0 to 1.

    Args:
        image: loaded, of any mode.

    Raises:
        ValueError: where the range of the values is not known, or values lie outside it.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    straight = image.convert("LA") if image.mode == "La" else image  # Pillow converts it to nothing else
    colours = straight.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), colours).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits in mode L, or LA where one of its values stands for transparency."""
    values = np.asarray(image, dtype=np.float64)
    white = _white(image)
    if white is None:
        raise ValueError(f"nothing says which value is white in mode {image.mode}; save it with 8 or 16 bits unsigned")
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
    """The value of white in a grey image of more than 8 bits; none where the file does not tell it."""
    if image.mode == "F":
        return 1.0
    if image.mode == "I":  # Pillow scales PGM files to 16 bits; before version 11 it opened PNG files so too
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
    except Exception:  # damaged EXIF data says nothing, and spoils no pixel
        return None
    return orientation


def _turned(image: Image.Image, orientation: int | None) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from benchmarks.photographs import as_image, noise_field
from cfamc_ray.config.errors import InputError
from cfamc_ray.data import decoding
from cfamc_ray.data.decoding import read_square, to_rgb

RED, GREEN = (255, 0, 0), (0, 255, 0)

# A pixel of each mode, and its colour.
PIXELS: dict[str, list[tuple[Any, tuple[int, int, int]]]] = {
    "1": [(0, (0, 0, 0)), (255, (255, 255, 255))],
    "L": [(7, (7, 7, 7))],
    "P": [(2, (10, 20, 30))],
    "RGB": [((1, 2, 3), (1, 2, 3))],
    "RGBX": [((1, 2, 3, 0), (1, 2, 3))],
    "RGBA": [((1, 2, 3, 255), (1, 2, 3)), ((1, 2, 3, 0), (255, 255, 255)), ((0, 100, 200, 51), (204, 224, 244))],
    "RGBa": [((1, 2, 3, 255), (1, 2, 3)), ((0, 0, 0, 0), (255, 255, 255)), ((0, 20, 40, 51), (204, 224, 244))],
    "LA": [((7, 255), (7, 7, 7)), ((7, 0), (255, 255, 255)), ((100, 51), (224, 224, 224))],
    "La": [((7, 255), (7, 7, 7)), ((0, 0), (255, 255, 255)), ((20, 51), (224, 224, 224))],
    "PA": [((2, 255), (10, 20, 30)), ((2, 0), (255, 255, 255))],
    "CMYK": [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
    "YCbCr": [((128, 128, 128), (128, 128, 128)), ((76, 85, 255), (254, 0, 0))],
    "HSV": [((0, 255, 255), (255, 0, 0)), ((0, 0, 9), (9, 9, 9))],
    "LAB": [((137, 128, 128), (128, 128, 128))],
    "F": [(0.0, (0, 0, 0)), (0.2, (51, 51, 51)), (1.0, (255, 255, 255))],
    **{
        mode: [(0, (0, 0, 0)), (257 * 200, (200, 200, 200)), (300, (1, 1, 1)), (65535, (255, 255, 255))]
        for mode in ("I;16", "I;16L", "I;16B", "I;16N")
    },
}


def test_the_modes_are_all_of_pillow() -> None:
    assert set(PIXELS) | {"I"} == set(Image.MODES)


@pytest.mark.parametrize(
    ("mode", "pixel", "colour"), [(mode, *case) for mode, cases in PIXELS.items() for case in cases]
)
def test_every_mode_becomes_its_colour(mode: str, pixel: Any, colour: tuple[int, int, int]) -> None:
    image = Image.new(mode, (3, 2), pixel)
    if mode in ("P", "PA"):
        image.putpalette([0, 0, 0, 9, 9, 9, 10, 20, 30])
    rgb = to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", (3, 2))
    assert rgb.getcolors() == [(6, colour)]


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("I", 200, "mode I does not define which value is white"),
        ("F", 1.5, "mode F must be from 0 to 1, not from 1.5 to 1.5"),
        ("F", -0.5, "mode F must be from 0 to 1, not from -0.5"),
        ("F", float("nan"), "mode F must be from 0 to 1, not from nan"),
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path: Path, mode: str, value: float, message: str) -> None:
    Image.new(mode, (4, 4), value).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"a.tif: cannot be read as an image: .*{message}"):
        read_square(tmp_path / "a.tif", 8)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "PPM"])
@settings(max_examples=20)
@given(values=st.lists(st.integers(0, 65535), min_size=64, max_size=64))
def test_grey_of_16_bits_is_scaled_from_its_whole_range(
    tmp_path_factory: pytest.TempPathFactory, form: str, values: list[int]
) -> None:
    grey_HW = np.array(values, dtype=np.uint16).reshape(8, 8)
    file = tmp_path_factory.mktemp("grey") / "a"
    options: dict[str, Any] = {"irreversible": False} if form == "JPEG2000" else {}
    Image.fromarray(grey_HW).save(file, form, **options)
    expected_HW = np.rint(grey_HW / 257).astype(np.uint8)
    assert (read_square(file, 8) == expected_HW).all()


def test_the_largest_value_of_a_portable_graymap_is_white(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P2 2 2 1000 0 500 200 1000")
    assert np.asarray(to_rgb(Image.open(tmp_path / "a.pgm")))[..., 0].tolist() == [[0, 128], [51, 255]]


def tiff(tmp_path: Path, image: Image.Image, **tags: int) -> Path:
    """The image in a file with some tags overwritten, each of one short value, in little-endian order."""
    file = tmp_path / "a.tif"
    image.save(file)
    content = bytearray(file.read_bytes())
    for name, value in tags.items():
        number = {"bits": 258, "photometric": 262}[name]
        at = content.index(number.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00")
        content[at + 8 : at + 10] = value.to_bytes(2, "little")
    file.write_bytes(content)
    return file


def test_a_tiff_file_of_12_bits_is_scaled_from_them(tmp_path: Path) -> None:
    file = tiff(tmp_path, Image.new("I;16", (8, 6), 0x1111), bits=12)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\x11" * 96, bytes([0xFF, 0xF8, 0x00] * 32)))
    assert np.asarray(to_rgb(Image.open(file)))[0, :4, 0].tolist() == [255, 128, 255, 128]


@pytest.mark.parametrize(("mode", "dark"), [("L", 51), ("I;16", 51 * 257), ("F", 0.2)])
def test_zero_may_be_white_in_a_tiff_file(tmp_path: Path, mode: str, dark: float) -> None:
    file = tiff(tmp_path, Image.new(mode, (8, 8), dark), photometric=0)
    assert np.unique(read_square(file, 8)).tolist() == [204]


def test_a_transparent_grey_or_colour_shows_the_background(tmp_path: Path) -> None:
    grey_HW = np.array([[0, 5140], [51400, 65535]], dtype=np.uint16)
    Image.fromarray(grey_HW).save(tmp_path / "16.png", transparency=5140)
    Image.fromarray((grey_HW // 257).astype(np.uint8)).save(tmp_path / "8.png", transparency=20)
    for name in ("16.png", "8.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(to_rgb(image))[..., 0].tolist() == [[0, 255], [200, 255]]
    Image.new("RGB", (8, 8), RED).save(tmp_path / "rgb.png", transparency=RED)
    assert (read_square(tmp_path / "rgb.png", 8) == 255).all()


def test_a_transparent_entry_of_a_palette_shows_the_background(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    for name, shown in {"a.png": 255, "a.gif": 255}.items():
        image.save(tmp_path / name, transparency=1)
        assert (read_square(tmp_path / name, 8) == shown).all()
    image.save(tmp_path / "b.png", transparency=bytes([255, 51]))
    assert read_square(tmp_path / "b.png", 8)[:, 0, 0].tolist() == [244, 204, 204]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright_HWC = np.zeros((16, 16, 3), dtype=np.uint8)
    upright_HWC[:8, :8], upright_HWC[:8, 8:] = RED, GREEN
    upright_HWC[8:, :8] = 255
    stored_HWC = {
        1: upright_HWC,
        2: upright_HWC[:, ::-1],
        3: upright_HWC[::-1, ::-1],
        4: upright_HWC[::-1],
        5: upright_HWC.transpose(1, 0, 2),
        6: np.rot90(upright_HWC, 1),
        7: upright_HWC[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright_HWC, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored_HWC)).save(file, exif=exif, quality=95)
    read_CHW = read_square(file, 16)
    difference = read_CHW.transpose(1, 2, 0).astype(int) - upright_HWC
    assert np.abs(difference[2:14:10, 2:14:10]).max() < 60  # JPEG keeps colours more or less


def test_damaged_exif_data_spoils_no_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.png", exif=b"Exif\0\0" + b"nonsense" * 3)
    assert (read_square(tmp_path / "a.png", 8)[0] == 255).all()


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    for suffix in ("gif", "tif", "webp", "png"):
        options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
        assert read_square(tmp_path / f"a.{suffix}", 8)[:, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of what it skips
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "TGA", "JPEG2000"])
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_file_is_an_image_or_bad_input(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, form)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("damaged") / "a"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged header may promise many more
        try:
            shape = read_square(file, 8).shape
        except InputError:
            return
    assert shape == (3, 8, 8)


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return noise_field(2048, seed=0)


@pytest.mark.parametrize(("height", "width"), [(1400, 1600), (1401, 1401), (1801, 1345)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_file_is_decoded_reduced_and_nearly_the_same(
    field: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    as_image(field[:height, :width]).save(tmp_path / "a.jpg", quality=90, exif=exif)
    reduced_CHW = read_square(tmp_path / "a.jpg", 224).astype(int)
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    whole_CHW = read_square(tmp_path / "a.jpg", 224).astype(int)
    difference = np.abs(reduced_CHW - whole_CHW)
    assert 0 < difference.mean() < 0.7
    assert difference.max() <= 6
    assert abs((reduced_CHW - whole_CHW).mean()) < 0.1, "no brighter"


@pytest.mark.parametrize(
    ("side", "image_size", "decoded"), [(500, 224, 500), (1343, 224, 1343), (1344, 224, 672), (512, 32, 128)]
)
def test_what_is_decoded_is_at_least_three_times_as_large_as_what_is_read(
    field: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, image_size: int, decoded: int
) -> None:
    as_image(field[:side, :side]).save(tmp_path / "a.jpg")
    sizes = []

    def noted(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return to_rgb(image)

    monkeypatch.setattr(decoding, "to_rgb", noted)
    assert read_square(tmp_path / "a.jpg", image_size).shape == (3, image_size, image_size)
    assert sizes == [(decoded, decoded)]


def test_an_image_that_is_not_reduced_is_resized_as_pillow_fits_it(field: np.ndarray, tmp_path: Path) -> None:
    as_image(field[:375, :500]).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        expected_HWC = np.asarray(ImageOps.fit(image.convert("RGB"), (224, 224), Image.Resampling.BILINEAR))
    assert (read_square(tmp_path / "a.jpg", 224).transpose(1, 2, 0) == expected_HWC).all()

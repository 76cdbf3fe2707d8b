"""The fifteen common corruptions at five severities (arXiv 1903.12261), made from clean images.

Shapes: N images, of which B are corrupted at once, C/H/W channels/height/width. Inside this module pixels are float32
from 0 to 1. Each function of a kind gets these, the settings of a severity, and a random generator for each image.
"""

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.corruptions import CIFAR, CORRUPTIONS, IMAGENET, Corruption, Settings
from cfamc_ray.config.errors import InputError

Array = npt.NDArray[Any]
Generators = Sequence[np.random.Generator]
BATCH = 250
"""Number of images that are corrupted at once; no result depends on it."""
SMALLEST_SIDE = 8
LARGEST_SMALL_SIDE = 64
"""Images of at most so many pixels get the settings of CIFAR-10-C, larger ones those of ImageNet-C."""
FROST_TINT = (0.8, 0.9, 1.0)
"""Colour of frost: red, green and blue."""
FROST_DECAY = 1.7
"""How fast details of the frost's texture fade with their size."""


def corrupt(images_NCHW: Tensor, kind: Corruption, severity: int, *, seed: int = 0) -> Tensor:
    """Corrupt images.

    The random numbers of an image depend on the seed, the kind and the image's position alone: all severities of a
    kind use the same ones, and the first images of a larger sample are corrupted as they are in a smaller one.

    Args:
        images_NCHW: uint8, gray (C = 1) or RGB (C = 3), on the CPU, of at least 8x8 pixels.
        kind: one of `CORRUPTIONS`.
        severity: from 1 to 5.
        seed: seed of the random numbers.

    Returns:
        uint8 images of the same shape.

    Raises:
        InputError: if the images are smaller than 8x8 pixels.
    """
    H, W = images_NCHW.shape[-2:]
    if min(H, W) < SMALLEST_SIDE:
        raise InputError(
            f"corruptions: images need at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels; these have {H}x{W}"
        )
    settings = (CIFAR if max(H, W) <= LARGEST_SMALL_SIDE else IMAGENET)[kind][severity - 1]
    corrupted = torch.empty_like(images_NCHW)
    for positions_B in torch.arange(len(images_NCHW)).split(BATCH):
        generators = [
            np.random.default_rng((seed, CORRUPTIONS.index(kind), position)) for position in positions_B.tolist()
        ]
        pixels_BCHW = (images_NCHW[positions_B].float() / 255).numpy()
        changed_BCHW = KINDS[kind](pixels_BCHW, settings, generators).clip(0, 1)
        corrupted[positions_B] = torch.from_numpy(np.rint(changed_BCHW * 255).astype(np.uint8))
    return corrupted


def _gaussian_noise(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    (scale,) = settings
    return x_BCHW + scale * _each(generators, lambda one: one.standard_normal(x_BCHW.shape[1:]))


def _shot_noise(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    (photons,) = settings
    counts = [one.poisson(x_CHW * photons) for one, x_CHW in zip(generators, x_BCHW, strict=True)]
    return np.stack(counts).astype(np.float32) / np.float32(photons)


def _impulse_noise(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    (share,) = settings
    drawn_BCHW = _each(generators, lambda one: one.random(x_BCHW.shape[1:]))
    return np.where(drawn_BCHW < share, drawn_BCHW < share / 2, x_BCHW).astype(np.float32)


def _defocus_blur(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    radius, softness = settings
    soft = 1 if radius <= 8 else 2  # half width of the filter that softens the border of the disk
    half = math.floor(radius) + soft
    offsets = np.arange(-half, half + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    kernel = gaussian_filter(disk / disk.sum(), softness, mode="constant", radius=soft)
    return _filtered(x_BCHW, kernel / kernel.sum())


def _glass_blur(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    sigma, reach, times = settings[0], int(settings[1]), int(settings[2])
    (B, _, H, W), blurred_BCHW = x_BCHW.shape, _blurred(x_BCHW, sigma)
    h_HW, w_HW = np.mgrid[:H, :W]
    inside_HW = (h_HW > reach) & (h_HW <= H - reach) & (w_HW > reach) & (w_HW <= W - reach)
    for _ in range(times):
        moves_B2HW = np.stack([one.integers(-reach, reach, (2, H, W)) for one in generators]) * inside_HW
        rows_BHW, columns_BHW = h_HW + moves_B2HW[:, 0], w_HW + moves_B2HW[:, 1]
        blurred_BCHW = blurred_BCHW[np.arange(B)[:, None, None], :, rows_BHW, columns_BHW].transpose(0, 3, 1, 2)
    return _blurred(blurred_BCHW, sigma)


def _motion_blur(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    radius, sigma = settings
    return _streaked(x_BCHW, radius, sigma, np.array([one.uniform(-45, 45) for one in generators]))


def _zoom_blur(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    end, step = settings
    factors = np.arange(1, end, step)
    return (x_BCHW + sum(_zoomed(x_BCHW, factor) for factor in factors)) / np.float32(len(factors) + 1)


def _snow(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    mean, spread, size, threshold, radius, sigma, kept = settings
    flakes_B1HW = mean + spread * _each(generators, lambda one: one.standard_normal((1, *x_BCHW.shape[2:])))
    flakes_B1HW = _zoomed(flakes_B1HW, size)
    flakes_B1HW = np.where(flakes_B1HW < threshold, 0, flakes_B1HW).clip(0, 1)
    angles_B = np.array([one.uniform(-135, -45) for one in generators])
    flakes_B1HW = _streaked(flakes_B1HW.astype(np.float32), radius, sigma, angles_B)
    whitened_BCHW = np.maximum(x_BCHW, 1.5 * _luma(x_BCHW) + 0.5)
    return kept * x_BCHW + (1 - kept) * whitened_BCHW + flakes_B1HW + flakes_B1HW[..., ::-1, ::-1]


def _frost(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    kept, added = settings
    ridges_B1HW = (1 - np.abs(2 * _fractal(generators, x_BCHW.shape[2:], FROST_DECAY) - 1)) ** 2
    tint_1C11 = np.array(FROST_TINT, np.float32)[None, :, None, None]
    frost: Array = ridges_B1HW * (tint_1C11 if x_BCHW.shape[1] == 3 else _luma(tint_1C11))
    return kept * x_BCHW + added * frost


def _fog(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    amount, decay = settings
    brightest_B111: Array = x_BCHW.max((1, 2, 3), keepdims=True)
    foggy_BCHW: Array = x_BCHW + amount * _fractal(generators, x_BCHW.shape[2:], decay)
    return foggy_BCHW * brightest_B111 / (brightest_B111 + amount)


def _brightness(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    """Raise the value of HSV: with equal hue and saturation all channels grow in proportion, and black becomes gray."""
    (added,) = settings
    value_B1HW: Array = x_BCHW.max(1, keepdims=True)
    raised_B1HW = (value_B1HW + added).clip(0, 1)
    grown_BCHW = x_BCHW * raised_B1HW / np.where(value_B1HW > 0, value_B1HW, 1)
    return np.where(value_B1HW > 0, grown_BCHW, raised_B1HW)


def _contrast(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    (kept,) = settings
    mean_BC11: Array = x_BCHW.mean((2, 3), keepdims=True)
    return mean_BC11 + kept * (x_BCHW - mean_BC11)


def _elastic_transform(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    H, W = x_BCHW.shape[2:]
    height, sigma, jitter = (min(H, W) * fraction for fraction in settings)
    (centre_y, centre_x), reach = (H // 2, W // 2), min(H, W) // 3
    corners_32 = np.array([(1, 1), (1, -1), (-1, -1)]) * reach + (centre_x, centre_y)
    moved_B32 = corners_32 + np.stack([one.uniform(-jitter, jitter, (3, 2)) for one in generators])
    # The affine map from each pixel to its source takes the moved corners back.
    ones_B31 = np.ones((len(x_BCHW), 3, 1))
    back_B32 = np.linalg.solve(np.concatenate([moved_B32, ones_B31], 2), np.broadcast_to(corners_32, moved_B32.shape))
    y_HW, x_HW = np.mgrid[:H, :W]
    source_BHW2 = np.stack([x_HW, y_HW, np.ones_like(x_HW)], -1) @ back_B32[:, None]
    bent_BCHW = _sampled(x_BCHW, source_BHW2[..., 1], source_BHW2[..., 0])
    waves_B2HW = _each(generators, lambda one: one.uniform(-1, 1, (2, H, W)))
    waves_B2HW = height * gaussian_filter(waves_B2HW, (0, 0, sigma, sigma), mode="reflect", truncate=3)
    return _sampled(bent_BCHW, y_HW + waves_B2HW[:, 0], x_HW + waves_B2HW[:, 1])


def _pixelate(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    (H, W), (kept,) = x_BCHW.shape[2:], settings
    small = (int(W * kept), int(H * kept))
    return _each_image(
        x_BCHW, lambda image: image.resize(small, Image.Resampling.BOX).resize((W, H), Image.Resampling.BOX)
    )


def _jpeg_compression(x_BCHW: Array, settings: Settings, generators: Generators) -> Array:
    def through_jpeg(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=int(settings[0]))
        return Image.open(file)

    return _each_image(x_BCHW, through_jpeg)


def _each(generators: Generators, draw: Callable[[np.random.Generator], Any]) -> Array:
    return np.stack([draw(one) for one in generators]).astype(np.float32)


def _each_image(x_BCHW: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    """Change each image as a Pillow image."""
    bytes_BHWC = np.rint(x_BCHW * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    images = (Image.fromarray(each_HWC.squeeze(2) if each_HWC.shape[2] == 1 else each_HWC) for each_HWC in bytes_BHWC)
    changed = np.stack([np.asarray(change(image), np.float32) / 255 for image in images])
    return changed.reshape(bytes_BHWC.shape).transpose(0, 3, 1, 2)


def _luma(x_BCHW: Array) -> Array:
    """Brightness of RGB images (ITU-R BT.601); gray images are their own."""
    weights_C11 = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]
    return (x_BCHW * weights_C11).sum(1, keepdims=True) if x_BCHW.shape[1] == 3 else x_BCHW


def _blurred(x_BCHW: Array, sigma: float) -> Array:
    return gaussian_filter(x_BCHW, (0, 0, sigma, sigma), mode="nearest")  # type: ignore[no-any-return]


def _filtered(x_BCHW: Array, kernel: Array) -> Array:
    C, half = x_BCHW.shape[1], len(kernel) // 2
    padded = F.pad(torch.from_numpy(x_BCHW), [half] * 4, mode="reflect")
    weights_C1kk = torch.from_numpy(kernel.astype(np.float32)).expand(C, 1, *kernel.shape)
    return F.conv2d(padded, weights_C1kk, groups=C).numpy()


def _streaked(x_BCHW: Array, radius: float, sigma: float, degrees_B: Array) -> Array:
    """Average over a half-sided Gaussian in a direction of each image, as ImageMagick's motion blur does."""
    (B, _, H, W), steps = x_BCHW.shape, np.arange(2 * int(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angles_B, streaked_BHWC = np.deg2rad(degrees_B), np.zeros(x_BCHW.transpose(0, 2, 3, 1).shape, np.float32)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down_B, right_B = (np.rint(step * of(angles_B)).astype(np.int64) for of in (np.sin, np.cos))
        rows_BH = (np.arange(H) + down_B[:, None]).clip(0, H - 1)
        columns_BW = (np.arange(W) + right_B[:, None]).clip(0, W - 1)
        streaked_BHWC += weight * x_BCHW[np.arange(B)[:, None, None], :, rows_BH[:, :, None], columns_BW[:, None]]
    return streaked_BHWC.transpose(0, 3, 1, 2)


def _zoomed(x_BCHW: Array, factor: float) -> Array:
    """Magnify the centre of images."""
    H, W = x_BCHW.shape[2:]
    y_HW, x_HW = np.mgrid[:H, :W] - np.array([(H - 1) / 2, (W - 1) / 2])[:, None, None]
    return _sampled(x_BCHW, y_HW / factor + (H - 1) / 2, x_HW / factor + (W - 1) / 2)


def _sampled(x_BCHW: Array, rows: Array, columns: Array) -> Array:
    """Interpolate images at positions in pixels, (H, W) for all or (B, H, W) for each; they are mirrored outside."""
    B, _, H, W = x_BCHW.shape
    grid = torch.from_numpy(np.stack([2 * columns / (W - 1) - 1, 2 * rows / (H - 1) - 1], -1).astype(np.float32))
    sampled = F.grid_sample(
        torch.from_numpy(x_BCHW), grid.expand(B, H, W, 2), padding_mode="reflection", align_corners=True
    )
    return sampled.numpy()


def _fractal(generators: Generators, shape: tuple[int, ...], decay: float) -> Array:
    """Clouds from 0 to 1, (B, 1, H, W): a diamond-square fractal on a torus, whose steps shrink by decay² each time."""
    side = 1 << (max(shape) - 1).bit_length()
    noise = _each(generators, lambda one: one.uniform(-1, 1, (side, side)))
    clouds, step, height = np.zeros_like(noise), side, 1.0
    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        centres = (pairs + np.roll(pairs, -1, 2)) / 4 + height * noise[:, half::step, half::step]
        clouds[:, half::step, half::step] = centres
        for axis, (rows, columns) in ((1, (0, half)), (2, (half, 0))):
            beside = centres + np.roll(centres, 1, axis) + corners + np.roll(corners, -1, 3 - axis)
            clouds[:, rows::step, columns::step] = beside / 4 + height * noise[:, rows::step, columns::step]
        step, height = half, height / decay**2
    clouds -= clouds.min((1, 2), keepdims=True)
    clouds /= clouds.max((1, 2), keepdims=True)
    return clouds[:, None, : shape[0], : shape[1]]


KINDS: dict[Corruption, Callable[[Array, Settings, Generators], Array]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""What makes each kind."""

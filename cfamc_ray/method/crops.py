"""Random resized crops, each augmented independently, computed in batches on the images' device.

All random numbers are drawn first, on the CPU, for the whole batch. So a crop does not depend on the device or the
number of workers, and the device never waits for the host. Cropping, resizing and flipping are one product with two
small matrices per crop, which interpolates and antialiases exactly as torchvision does.

Shapes: V views, B images, C/H/W channels/height/width, N = V * B crops, S side of a crop.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.method import CropsConfig
from cfamc_ray.method.transfer import to_device

ATTEMPTS = 10
"""Number of boxes to try before the central fallback, as in torchvision."""
SOLARIZE_THRESHOLD = 128 / 255
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601, as torchvision rounds them)."""


@dataclass(frozen=True)
class CropParameters:
    """The random parameters of the crops of a batch; the first axes of every field are V and B."""

    box_VB4: Tensor
    """Top, left, height and width in pixels, whole numbers."""
    flip_VB: Tensor
    brightness_VB: Tensor
    """Factors of the colour jitter; 1 changes nothing."""
    contrast_VB: Tensor
    saturation_VB: Tensor
    hue_VB: Tensor
    """Hue shift as a fraction of the colour circle; 0 changes nothing."""
    order_VB4: Tensor
    """Order of the colour operations: brightness 0, contrast 1, saturation 2 and hue 3."""
    grayscale_VB: Tensor
    blur_sigma_VB: Tensor
    """Standard deviation in pixels of the crop; 0 for no blur."""
    solarize_VB: Tensor

    def of_images(self, images: slice) -> "CropParameters":
        """The parameters of some of the images, for a worker's share of a batch."""
        return CropParameters(*(getattr(self, field.name)[:, images] for field in fields(self)))

    def to(self, device: torch.device, dtype: torch.dtype) -> "CropParameters":
        """Copy the parameters to another device, real numbers as `dtype`; the host does not wait for a GPU."""
        copies = (to_device(getattr(self, field.name), device) for field in fields(self))
        return CropParameters(*(copy.to(dtype) if copy.is_floating_point() else copy for copy in copies))


def draw_crop_parameters(
    config: CropsConfig, *, images: int, height: int, width: int, generator: torch.Generator
) -> CropParameters:
    """Draw the crops of a batch independently, with the distribution of torchvision's transforms.

    Args:
        config: ranges and probabilities.
        images: number of images (B).
        height: height of the images in pixels.
        width: width of the images in pixels.
        generator: random generator on the CPU.
    """
    shape = (config.views, images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    def happens(probability: float) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    def factor(strength: float) -> Tensor:
        return torch.where(jitter, uniform(max(0.0, 1 - strength), 1 + strength), 1.0)

    box = _draw_boxes(config, shape, height, width, generator)
    flip = happens(config.flip_probability)
    jitter = happens(config.jitter_probability)
    return CropParameters(
        box_VB4=box,
        flip_VB=flip,
        brightness_VB=factor(config.brightness),
        contrast_VB=factor(config.contrast),
        saturation_VB=factor(config.saturation),
        hue_VB=torch.where(jitter, uniform(-config.hue, config.hue), 0.0),
        order_VB4=torch.rand((*shape, 4), generator=generator).argsort(-1),
        grayscale_VB=happens(config.grayscale_probability),
        blur_sigma_VB=torch.where(happens(config.blur_probability), uniform(*config.blur_sigma), 0.0),
        solarize_VB=happens(config.solarize_probability),
    )


def _draw_boxes(
    config: CropsConfig, shape: tuple[int, int], height: int, width: int, generator: torch.Generator
) -> Tensor:
    attempts = (*shape, ATTEMPTS)
    area = height * width * (torch.rand(attempts, generator=generator) * (config.scale[1] - config.scale[0]))
    area += height * width * config.scale[0]
    low, high = (math.log(ratio) for ratio in config.ratio)
    ratio = torch.exp(torch.rand(attempts, generator=generator) * (high - low) + low)
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(-1, keepdim=True)
    h, w = heights.gather(-1, first).squeeze(-1), widths.gather(-1, first).squeeze(-1)
    # A uniform integer from 0 to the free space, both included.
    top = (torch.rand(shape, generator=generator) * (height - h + 1)).floor()
    left = (torch.rand(shape, generator=generator) * (width - w + 1)).floor()
    drawn = torch.stack([top, left, h, w], -1)
    return torch.where(fits.any(-1, keepdim=True), drawn, _central_box(config, height, width)).long()


def _central_box(config: CropsConfig, height: int, width: int) -> Tensor:
    """The largest central box with an allowed aspect ratio: torchvision's fallback."""
    ratio = min(max(width / height, config.ratio[0]), config.ratio[1])
    h = height if width / height >= ratio else round(width / ratio)
    w = width if width / height <= ratio else round(height * ratio)
    return torch.tensor([(height - h) // 2, (width - w) // 2, h, w], dtype=torch.float32)


def make_crops(
    images_BCHW: Tensor, parameters: CropParameters, *, size: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Crop, resize and augment images.

    Args:
        images_BCHW: uint8, three channels.
        parameters: parameters of the crops of these images, on any device.
        size: height and width of a crop in pixels (S).
        dtype: type of all arithmetic and of the crops, float32 or float64.

    Returns:
        crops_VBCSS in [0, 1], on the images' device.
    """
    parameters = parameters.to(images_BCHW.device, dtype)
    V, B = parameters.flip_VB.shape
    crops_VBCSS = cut_boxes(images_BCHW.to(dtype) / 255, parameters.box_VB4, parameters.flip_VB, size=size)
    crops_NCSS = crops_VBCSS.clamp_(0, 1).flatten(0, 1)
    crops_NCSS = _jitter(crops_NCSS, parameters)
    crops_NCSS = torch.where(_per_crop(parameters.grayscale_VB), _gray(crops_NCSS), crops_NCSS)
    crops_NCSS = _blur(crops_NCSS, parameters.blur_sigma_VB.flatten()).clamp_(0, 1)
    solarized_NCSS = torch.where(crops_NCSS >= SOLARIZE_THRESHOLD, 1 - crops_NCSS, crops_NCSS)
    crops_NCSS = torch.where(_per_crop(parameters.solarize_VB), solarized_NCSS, crops_NCSS)
    return crops_NCSS.reshape(V, B, *crops_NCSS.shape[1:])


def cut_boxes(pixels_BCHW: Tensor, box_VB4: Tensor, flip_VB: Tensor, *, size: int) -> Tensor:
    """Crop, resize with antialiasing and flip; linear in the pixels, so that gradients reach each of them.

    Args:
        pixels_BCHW: pixels in [0, 1], float32 or float64.
        box_VB4: top, left, height and width in whole pixels, inside the image; box_V14 crops all images the same way.
        flip_VB: whether to flip horizontally; flip_V1 with box_V14.
        size: height and width of a crop in pixels (S).

    Returns:
        crops_VBCSS in the pixels' type, in [0, 1] up to rounding. They are not clamped: clamping would remove the
        gradient of a white pixel that rounding lifts above 1, which would look like robustness.
    """
    V, (B, C, H, W) = len(box_VB4), pixels_BCHW.shape
    top_VB, left_VB, height_VB, width_VB = box_VB4.unbind(-1)
    rows_VBSH = _interpolation(top_VB, height_VB.to(pixels_BCHW.dtype), size, H)
    columns_VBSW = _interpolation(left_VB, width_VB.to(pixels_BCHW.dtype), size, W)
    columns_VBSW = torch.where(flip_VB[..., None, None], columns_VBSW.flip(-2), columns_VBSW)
    # Rows first, for all views of an image in one product: (V S, H) x (H, C W).
    pixels_BHX = pixels_BCHW.transpose(1, 2).flatten(2)
    strips_BYX = rows_VBSH.transpose(0, 1).flatten(1, 2) @ pixels_BHX
    strips_VBSCW = strips_BYX.unflatten(1, (V, size)).unflatten(3, (C, W)).transpose(0, 1)
    crops_VBYS = strips_VBSCW.flatten(2, 3) @ columns_VBSW.mT
    crops_VBCSS: Tensor = crops_VBYS.view(V, B, size, C, size).transpose(2, 3).contiguous()
    return crops_VBCSS


def _interpolation(start_VB: Tensor, length_VB: Tensor, size: int, extent: int) -> Tensor:
    """Weights with which each of `size` output pixels averages the pixels of its box.

    They form a triangle, as wide as an output pixel if the box shrinks (antialiasing), else as an input pixel.
    """
    scale_VB11 = (length_VB / size)[..., None, None]
    output_S1 = torch.arange(size, device=start_VB.device)[:, None]
    pixel_P = torch.arange(extent, device=start_VB.device)
    place_VBSP = pixel_P - start_VB[..., None, None]
    distance_VBSP = (place_VBSP + 0.5 - scale_VB11 * (output_S1 + 0.5)).abs()
    weights_VBSP = (1 - distance_VBSP / scale_VB11.clamp(min=1)).clamp_(min=0)
    inside_VBSP = (place_VBSP >= 0) & (place_VBSP < length_VB[..., None, None])
    weights_VBSP = weights_VBSP * inside_VBSP
    normalised_VBSP: Tensor = weights_VBSP / weights_VBSP.sum(-1, keepdim=True)
    return normalised_VBSP


def _jitter(crops_NCSS: Tensor, parameters: CropParameters) -> Tensor:
    """Change brightness, contrast, saturation and hue, in each crop's own order.

    The first three are blends with black, the mean grey and the grey image. Hue is the most expensive, so it is
    computed once: every crop passes three blends, hue, and three blends again, where unused blends have the factor 1.
    """
    order_N4 = parameters.order_VB4.flatten(0, 1)
    ones_N = torch.ones_like(parameters.brightness_VB.flatten())
    factors = (parameters.brightness_VB, parameters.contrast_VB, parameters.saturation_VB)
    factor_N4 = torch.stack([*(factor.flatten() for factor in factors), ones_N], -1).gather(-1, order_N4)
    hue_place_N1 = (order_N4 == 3).int().argmax(-1, keepdim=True)
    place_4 = torch.arange(4, device=order_N4.device)
    before_N4 = torch.where(place_4 < hue_place_N1, factor_N4, 1.0)
    after_N4 = torch.where(place_4 > hue_place_N1, factor_N4, 1.0)
    for place in range(3):
        crops_NCSS = _blend(crops_NCSS, order_N4[:, place], before_N4[:, place])
    crops_NCSS = _turn_hue(crops_NCSS, parameters.hue_VB.flatten())
    for place in range(1, 4):
        crops_NCSS = _blend(crops_NCSS, order_N4[:, place], after_N4[:, place])
    return crops_NCSS


def _blend(crops_NCSS: Tensor, kind_N: Tensor, factor_N: Tensor) -> Tensor:
    kind_N111 = kind_N[:, None, None, None]
    gray_N1SS = _gray(crops_NCSS)
    other_N1SS = torch.where(kind_N111 == 2, gray_N1SS, gray_N1SS.mean((-2, -1), keepdim=True))
    other_N1SS = torch.where(kind_N111 == 0, 0.0, other_N1SS)
    return torch.lerp(other_N1SS, crops_NCSS, factor_N[:, None, None, None]).clamp_(0, 1)


def _gray(crops_NCSS: Tensor) -> Tensor:
    red, green, blue = crops_NCSS.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _turn_hue(crops_NCSS: Tensor, turn_N: Tensor) -> Tensor:
    """Shift the hue in the hue-saturation-value representation; `turn_N` is a fraction of the circle."""
    red, green, blue = crops_NCSS.unbind(1)
    value, least = crops_NCSS.amax(1), crops_NCSS.amin(1)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * turn_N[:, None, None]
    offsets_311 = 5 - 2 * torch.arange(3, device=crops_NCSS.device)[:, None, None]  # on the device: a copy would wait
    k_NCSS = torch.remainder(sixth[:, None] + offsets_311, 6)
    turned_NCSS = value[:, None] - chroma[:, None] * torch.minimum(k_NCSS, 4 - k_NCSS).clamp_(0, 1)
    return torch.where(turn_N[:, None, None, None] == 0, crops_NCSS, turned_NCSS)


def _blur(crops_NCSS: Tensor, sigma_N: Tensor) -> Tensor:
    """Gaussian blur with reflected borders, as a product with the matrix of a symmetric kernel on each side."""
    size = crops_NCSS.shape[-1]
    radius = min(size - 1, 8)  # three times `WIDEST_BLUR`
    offset_K = torch.arange(-radius, radius + 1, device=crops_NCSS.device)
    kernel_NK = torch.exp(-0.5 * (offset_K / sigma_N.clamp(min=1e-3)[:, None]) ** 2)
    kernel_NK = kernel_NK / kernel_NK.sum(-1, keepdim=True)
    target_SK = torch.arange(size, device=crops_NCSS.device)[:, None] + offset_K
    target_SK = (size - 1) - ((size - 1) - target_SK.abs()).abs()
    reflection_SKS = F.one_hot(target_SK, size).to(crops_NCSS.dtype)
    matrix_N1SS = torch.einsum("nk,skt->nst", kernel_NK, reflection_SKS)[:, None]
    blurred_NCSS = matrix_N1SS @ crops_NCSS @ matrix_N1SS.mT
    return torch.where(_per_crop(sigma_N) > 0, blurred_NCSS, crops_NCSS)


def _per_crop(values: Tensor) -> Tensor:
    return values.flatten()[:, None, None, None]

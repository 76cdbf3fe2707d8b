import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as reference

from cfamc_ray.config.method import CropsConfig
from cfamc_ray.method.crops import CropParameters, cut_boxes, draw_crop_parameters, make_crops

NOTHING: dict[str, Any] = {
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    **{f"{name}_probability": 0.0 for name in ("flip", "jitter", "grayscale", "blur", "solarize")},
}
LEVEL = 1e-4
"""Of a statistical test: how often it may fail by chance (never, as the seeds are fixed)."""


def noise(images: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=generator)


def draw(config: CropsConfig, *, images: int, height: int = 32, width: int = 32, seed: int = 0) -> CropParameters:
    generator = torch.Generator().manual_seed(seed)
    return draw_crop_parameters(config, images=images, height=height, width=width, generator=generator)


def only(**changes: Any) -> CropsConfig:
    """Whole images with nothing done to them but the changes."""
    return CropsConfig(**{"views": 2, **NOTHING, **changes})


def measures(box_N4: Any) -> list[Any]:
    """Area, ratio and all four sides of boxes."""
    top, left, height, width = np.asarray(box_N4).T
    return [height * width, width / height, top, left, top + height, left + width]


def looks(crops_NCSS: Tensor) -> list[Any]:
    """Mean of each channel, contrast, colourfulness, sharpness and lopsidedness of crops."""
    means_NC, colour_N = crops_NCSS.mean((-2, -1)), crops_NCSS.std(1).mean((-2, -1))
    sharpness_N = crops_NCSS.diff(dim=-1).abs().mean((1, 2, 3))
    left, right = crops_NCSS.chunk(2, dim=-1)
    lopsided_N = (left - right).mean((1, 2, 3))
    return [*means_NC.T, crops_NCSS.std((1, 2, 3)), colour_N.round(decimals=5), sharpness_N, lopsided_N]


def crops_and_references(
    config: CropsConfig, transform: Callable[[Tensor, Callable[[str], Any]], Tensor]
) -> tuple[Tensor, Tensor]:
    """Crops of whole images, and what the transform makes of each, given a look-up of the crop's parameters."""
    images_BCHW = noise(24)
    parameters = draw(config, images=24)
    expected = [
        transform(images_BCHW[b].float() / 255, lambda name, v=v, b=b: getattr(parameters, name)[v, b].tolist())  # type: ignore[misc]
        for v in range(config.views)
        for b in range(24)
    ]
    return make_crops(images_BCHW, parameters, size=32).flatten(0, 1), torch.stack(expected)


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [(32, 32, 32), (12, 32, 32), (24, 64, 48), (48, 20, 33), (32, 150, 200)],
    ids=["enlarging", "shrinking", "larger images", "smaller images", "large images"],
)
def test_crops_equal_torchvisions_antialiased_resized_crop(size: int, height: int, width: int) -> None:
    config = only(flip_probability=0.5, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    images_BCHW = noise(6, height, width)
    parameters = draw(config, images=6, height=height, width=width)
    crops_VBCSS = make_crops(images_BCHW, parameters, size=size)
    for v, b in itertools.product(range(config.views), range(6)):
        box = parameters.box_VB4[v, b].tolist()
        expected = reference.resized_crop(images_BCHW[b].float() / 255, *box, [size, size], antialias=True)
        expected = expected.flip(-1) if parameters.flip_VB[v, b] else expected
        torch.testing.assert_close(crops_VBCSS[v, b], expected, rtol=0, atol=2e-6)


BOXES = {
    "whole": (0, 0, 20, 30),
    "shrinking": (1, 2, 18, 26),
    "enlarging": (5, 7, 6, 9),
    "enlarging one side": (0, 3, 5, 27),
    "one pixel": (19, 29, 1, 1),
}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_given_box_is_cut_as_torchvision_cuts_it_in_float64(box: tuple[int, ...], flip: bool) -> None:
    pixels_BCHW = noise(3, 20, 30).double() / 255
    crops_VBCSS = cut_boxes(pixels_BCHW, torch.tensor(box).expand(1, 3, 4), torch.full((1, 3), flip), size=11)
    expected = reference.resized_crop(pixels_BCHW, *box, [11, 11], antialias=True)
    assert crops_VBCSS.dtype == torch.float64
    torch.testing.assert_close(crops_VBCSS[0], expected.flip(-1) if flip else expected, rtol=0, atol=1e-12)


def test_boxes_for_all_images_cut_each_as_boxes_of_its_own() -> None:
    pixels_BCHW = noise(3, 20, 30).double() / 255
    box_V14, flip_V1 = torch.tensor([*BOXES.values()])[:, None], torch.arange(len(BOXES))[:, None] % 2 == 0
    shared = cut_boxes(pixels_BCHW, box_V14, flip_V1, size=11)
    own = cut_boxes(pixels_BCHW, box_V14.expand(-1, 3, -1), flip_V1.expand(-1, 3), size=11)
    torch.testing.assert_close(shared, own, rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0], ids=["black", "grey", "white"])
def test_the_crops_gradient_reaches_even_pixels_at_the_ends_of_their_range(value: float) -> None:
    parameters = draw(only(views=8, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip_probability=0.5), images=4)
    pixels_BCHW = torch.full((4, 3, 32, 32), value, requires_grad=True)
    crops_VBCSS = cut_boxes(pixels_BCHW, parameters.box_VB4, parameters.flip_VB, size=24)
    (gradient_BCHW,) = torch.autograd.grad(crops_VBCSS.sum(), pixels_BCHW)
    # Every output is an average: the weights that it gives to pixels add up to 1.
    outputs_B = torch.full((4,), 8.0 * 3 * 24 * 24)
    torch.testing.assert_close(gradient_BCHW.sum((1, 2, 3)), outputs_B, rtol=1e-5, atol=0)


def test_colour_jitter_equals_torchvisions_in_each_crops_own_order() -> None:
    def jitter(image: Tensor, of: Callable[[str], Any]) -> Tensor:
        for kind in of("order_VB4"):
            name = ("brightness", "contrast", "saturation", "hue")[kind]
            image = getattr(reference, f"adjust_{name}")(image, of(f"{name}_VB"))
        return image

    actual, expected = crops_and_references(only(jitter_probability=0.8), jitter)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_blur_equals_torchvisions_with_a_kernel_of_17() -> None:
    def blur(image: Tensor, of: Callable[[str], Any]) -> Tensor:
        sigma = of("blur_sigma_VB")
        return reference.gaussian_blur(image, [17, 17], [sigma, sigma]) if sigma else image

    actual, expected = crops_and_references(only(blur_probability=0.8), blur)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


def test_grayscale_equals_torchvisions() -> None:
    def gray(image: Tensor, of: Callable[[str], Any]) -> Tensor:
        return reference.rgb_to_grayscale(image, num_output_channels=3) if of("grayscale_VB") else image

    actual, expected = crops_and_references(only(grayscale_probability=0.5), gray)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_solarize_equals_torchvisions() -> None:
    def solarize(image: Tensor, of: Callable[[str], Any]) -> Tensor:
        return reference.solarize(image, 128 / 255) if of("solarize_VB") else image

    actual, expected = crops_and_references(only(solarize_probability=0.5), solarize)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_grayscale_comes_before_blur_and_blur_before_solarize() -> None:
    def all_three(image: Tensor, of: Callable[[str], Any]) -> Tensor:
        blurred = reference.gaussian_blur(reference.rgb_to_grayscale(image, 3), [17, 17], [1.0, 1.0])
        return torch.where(blurred >= 128 / 255, 1 - blurred, blurred)

    config = only(grayscale_probability=1.0, blur_probability=1.0, blur_sigma=(1.0, 1.0), solarize_probability=1.0)
    actual, expected = crops_and_references(config, all_three)
    differs = (actual - expected).abs() > 1e-5
    assert differs.double().mean() < 1e-3  # a pixel at the threshold may fall on either side


def test_blur_of_the_smallest_crops_reflects_at_most_once() -> None:
    crops = make_crops(noise(4), draw(only(size=8, blur_probability=1.0, blur_sigma=(2.0, 2.0)), images=4), size=8)
    plain = make_crops(noise(4), draw(only(size=8), images=4), size=8)
    for crop, sharp in zip(crops.flatten(0, 1), plain.flatten(0, 1), strict=True):
        torch.testing.assert_close(crop, reference.gaussian_blur(sharp, [15, 15], [2.0, 2.0]), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (96, 64, (0.08, 1.0), (3 / 4, 4 / 3)),
        (32, 32, (0.3, 1.0), (1.5, 3.0)),
        (40, 32, (0.9, 1.0), (2.0, 3.0)),
        (32, 40, (0.95, 1.0), (0.3, 0.5)),
    ],
    ids=["square", "upright", "sometimes the fallback", "always the wide fallback", "always the tall fallback"],
)
def test_boxes_are_distributed_as_torchvisions(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    config = only(views=20, scale=scale, ratio=ratio)
    ours_N4 = draw(config, images=500, height=height, width=width).box_VB4.flatten(0, 1)
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs_N4 = np.array([RandomResizedCrop.get_params(image, [*scale], [*ratio]) for _ in range(10_000)])
    for ours, theirs in zip(measures(ours_N4), measures(theirs_N4), strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > LEVEL


@pytest.mark.parametrize(
    ("happened", "probability"),
    [
        (lambda p: p.flip_VB, "flip_probability"),
        (lambda p: p.grayscale_VB, "grayscale_probability"),
        (lambda p: p.solarize_VB, "solarize_probability"),
        (lambda p: p.blur_sigma_VB > 0, "blur_probability"),
        (lambda p: p.brightness_VB != 1, "jitter_probability"),
        (lambda p: p.hue_VB != 0, "jitter_probability"),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.8, 1.0])
def test_an_augmentation_happens_as_often_as_its_probability_says(
    happened: Callable[[CropParameters], Tensor], probability: str, rate: float
) -> None:
    config = CropsConfig().model_copy(update={"views": 20, probability: rate})
    share = happened(draw(config, images=1000)).double().mean().item()
    assert abs(share - rate) <= 5 * (rate * (1 - rate) / 20_000) ** 0.5


@pytest.mark.parametrize(
    ("field", "changes", "low", "high"),
    [
        ("brightness_VB", {"brightness": 0.4}, 0.6, 1.4),
        ("contrast_VB", {"contrast": 0.3}, 0.7, 1.3),
        ("saturation_VB", {"saturation": 1.5}, 0.0, 2.5),
        ("hue_VB", {"hue": 0.2}, -0.2, 0.2),
        ("blur_sigma_VB", {"blur_sigma": (0.1, 2.0)}, 0.1, 2.0),
    ],
)
def test_a_factor_is_uniform_over_its_range(field: str, changes: Any, low: float, high: float) -> None:
    config = CropsConfig(views=20, jitter_probability=1.0, blur_probability=1.0, **changes)
    factors = getattr(draw(config, images=1000), field).flatten().double().numpy()
    assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > LEVEL


def test_the_order_of_the_jitter_is_any_of_the_24_equally_often() -> None:
    orders_N4 = draw(CropsConfig(views=20), images=1200).order_VB4.flatten(0, 1)
    counts = Counter(map(tuple, orders_N4.tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert stats.chisquare([*counts.values()]).pvalue > LEVEL


def test_the_crops_of_a_batch_are_drawn_independently() -> None:
    parameters = draw(CropsConfig(views=100, jitter_probability=1.0), images=100)
    names = ("brightness_VB", "contrast_VB", "saturation_VB", "hue_VB")
    factors = torch.stack([getattr(parameters, name) for name in names])
    across_kinds = torch.corrcoef(factors.flatten(1))
    across_views, across_images = torch.corrcoef(factors[0]), torch.corrcoef(factors[0].T)
    assert (across_kinds - torch.eye(4)).abs().max() < 5 / 100
    assert (across_views - torch.eye(100)).abs().max() < 6 / 10
    assert (across_images - torch.eye(100)).abs().max() < 6 / 10


def test_finished_crops_are_distributed_as_those_of_torchvisions_pipeline() -> None:
    # Orange, darker to the right: so each step of the pipeline shows in some look.
    tint_C11 = torch.tensor([190, 130, 50], dtype=torch.uint8)[:, None, None]
    image_CHW = noise(1, seed=5)[0] // 4 + tint_C11 - torch.arange(32, dtype=torch.uint8)
    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(32, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(17, (0.1, 2.0))], p=0.1),
            v2.RandomSolarize(128 / 255, p=0.1),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs_NCSS = torch.stack([pipeline(image_CHW.float() / 255) for _ in range(2000)])
    parameters = draw(CropsConfig(views=20), images=100)
    ours_NCSS = make_crops(image_CHW.expand(100, -1, -1, -1), parameters, size=32).flatten(0, 1)
    for ours, theirs in zip(looks(ours_NCSS), looks(theirs_NCSS), strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > LEVEL


def test_patches_are_boxes_of_a_quarter_of_the_image_anywhere_in_it() -> None:
    box_VB4 = draw(CropsConfig(scale=(0.25, 0.25), ratio=(1.0, 1.0)), images=200).box_VB4
    top, left, height, width = (set(values_VB.flatten().tolist()) for values_VB in box_VB4.unbind(-1))
    assert height == width == {16}
    assert top == left == set(range(17))


def test_one_seed_gives_the_same_crops_and_another_others() -> None:
    images_BCHW, config = noise(5), CropsConfig(views=3)
    first, again, other = (make_crops(images_BCHW, draw(config, images=5, seed=s), size=32) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_of_float64_are_more_exact_than_those_of_float32() -> None:
    images_BCHW, parameters = noise(20), draw(CropsConfig(views=3), images=20)
    exact, rounded = (make_crops(images_BCHW, parameters, size=24, dtype=t) for t in (torch.float64, torch.float32))
    assert (exact.dtype, rounded.dtype) == (torch.float64, torch.float32)
    assert not torch.equal(exact, rounded.double())
    off = (exact - rounded).abs() > 1e-5  # on the other side of a threshold, as of solarisation
    assert off.double().mean() < 1e-3
    plain = draw(only(size=24), images=20)
    exact = make_crops(images_BCHW, plain, size=24, dtype=torch.float64)
    assert torch.equal(exact, cut_boxes(images_BCHW.double() / 255, plain.box_VB4, plain.flip_VB, size=24).clamp(0, 1))


def test_a_worker_makes_the_same_crops_of_its_images_as_one_worker_of_all() -> None:
    images_BCHW, share = noise(7), slice(2, 5)
    parameters = draw(CropsConfig(views=4), images=7)
    crops_VBCSS = make_crops(images_BCHW, parameters, size=24)
    crops_VbCSS = make_crops(images_BCHW[share], parameters.of_images(share), size=24)
    assert torch.equal(crops_VbCSS, crops_VBCSS[:, share])


@pytest.mark.parametrize(
    "images_BCHW",
    [noise(50), noise(50) // 128 * 255, noise(50) * 0 + 255, noise(50) * 0],
    ids=["noise", "black and white", "white", "black"],
)
def test_crops_are_float32_pixels_from_0_to_1(images_BCHW: Tensor) -> None:
    config = CropsConfig(views=4, jitter_probability=1.0, solarize_probability=0.5, blur_probability=0.0)
    crops_VBCSS = make_crops(images_BCHW, draw(config, images=50), size=24)
    assert crops_VBCSS.shape == (4, 50, 3, 24, 24)
    assert crops_VBCSS.dtype == torch.float32
    assert crops_VBCSS.min() >= 0
    assert crops_VBCSS.max() <= 1


def test_blurred_crops_are_pixels_from_0_to_1() -> None:
    config = only(blur_probability=1.0)
    crops_VBCSS = make_crops(noise(50) * 0 + 255, draw(config, images=50), size=24)
    assert crops_VBCSS.max() <= 1

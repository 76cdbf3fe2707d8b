"""The fifteen corruptions: what each does to real digits and to cloudy colours, and what it never does."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.corruptions import CIFAR, CORRUPTIONS, IMAGENET, SEVERITIES, Corruption
from cfamc_ray.config.data import parse_data
from cfamc_ray.config.errors import InputError
from cfamc_ray.data import corruptions
from cfamc_ray.data.corruptions import corrupt
from cfamc_ray.data.sources import read_source


def clouds(count: int, side: int, *, channels: int = 3) -> Tensor:
    """Smooth colours with details of every size, as natural images have."""
    generator = torch.Generator().manual_seed(1)
    images = torch.zeros(count, channels, side, side)
    for octave in (2, 4, 8, 16):
        noise = torch.rand(count, channels, octave, octave, generator=generator) / octave
        images += F.interpolate(noise, size=side, mode="bilinear", align_corners=True)
    return (images * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return read_source(parse_data(name="digits", image_size=32)).test.images_NCHW[:60]


def change(before: Tensor, after: Tensor) -> float:
    """Mean absolute change in grey levels."""
    return float((after.float() - before.float()).abs().mean())


def decorrelation(before: Tensor, after: Tensor) -> float:
    """One minus the mean correlation of an image with itself: brightness and contrast alone do not change it."""
    x, y = (
        F.normalize(each.double().flatten(1) - each.double().flatten(1).mean(1, keepdim=True))
        for each in (before, after)
    )
    return float(1 - (x * y).sum(1).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 8), (3, 32, 32), (1, 20, 33), (3, 70, 66)])
def test_shape_and_type_stay_and_the_seed_decides(kind: Corruption, channels: int, height: int, width: int) -> None:
    images = clouds(3, 80, channels=channels)[..., :height, :width].contiguous()
    before = images.clone()
    for severity in (1, 5):
        first = corrupt(images, kind, severity, seed=3)
        assert (first.shape, first.dtype) == (images.shape, torch.uint8)
        assert torch.equal(first, corrupt(images, kind, severity, seed=3))
    assert torch.equal(images, before)
    assert not torch.equal(first, images)
    drawn = not torch.equal(first, corrupt(images, kind, 5, seed=4))
    assert drawn == (
        kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    )


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_first_images_of_a_sample_do_not_depend_on_the_others(
    kind: Corruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = clouds(7, 16)
    all_of_them = corrupt(images, kind, 3)
    monkeypatch.setattr(corruptions, "BATCH", 2)
    assert torch.equal(corrupt(images[:5], kind, 3), all_of_them[:5])
    same = corrupt(images[:1].expand(2, -1, -1, -1).contiguous(), kind, 3)
    deterministic = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(same[0], same[1]) == (kind in deterministic), "each image has random numbers of its own"


GROW = [kind for kind in CORRUPTIONS if kind not in ("snow", "glass_blur", "frost", "elastic_transform")]


@pytest.mark.parametrize("kind", GROW)
@pytest.mark.parametrize("what", ["digits", "clouds"])
def test_what_a_severity_changes_grows(kind: Corruption, what: str, digits: Tensor) -> None:
    images = digits if what == "digits" else clouds(60, 32)
    changes = [change(images, corrupt(images, kind, severity)) for severity in SEVERITIES]
    assert changes == sorted(changes)
    # Of motion blur, severity 4 has a longer kernel than 3, but the same sigma.
    assert len({round(each, 2) for each in changes}) == (4 if kind == "motion_blur" else 5)
    assert changes[0] > 0


@pytest.mark.parametrize("what", ["digits", "clouds"])
def test_snow_grows_though_severity_3_has_larger_flakes_than_2_rather_than_more(what: str, digits: Tensor) -> None:
    images = digits if what == "digits" else clouds(60, 32)
    first, *middle, fourth, last = (change(images, corrupt(images, "snow", severity)) for severity in SEVERITIES)
    assert middle[0] == pytest.approx(middle[1], rel=0.05)
    assert 0 < 2 * first < min(middle) < 1.5 * max(middle) < fourth < last


@pytest.mark.parametrize("what", ["digits", "clouds"])
def test_frost_hides_more_with_each_severity_while_it_darkens_what_is_below(what: str, digits: Tensor) -> None:
    images = digits if what == "digits" else clouds(60, 32)
    hidden = [decorrelation(images, corrupt(images, "frost", severity)) for severity in SEVERITIES]
    assert hidden == sorted(hidden)
    assert hidden[4] > 3 * hidden[0] > 0


@pytest.mark.parametrize("what", ["digits", "clouds"])
def test_glass_that_shuffles_twice_changes_more_than_glass_that_shuffles_once(what: str, digits: Tensor) -> None:
    images = digits if what == "digits" else clouds(60, 32)
    changes = [change(images, corrupt(images, "glass_blur", severity)) for severity in SEVERITIES]
    assert min(changes[3:]) > 1.3 * max(changes[:3])


def test_an_elastic_transform_bends_more_with_each_severity() -> None:
    """An affine map takes a ramp to another ramp; so what no ramp fits is bending."""
    columns = torch.arange(32) * 4 + 60
    ramps = columns.to(torch.uint8).expand(60, 1, 32, 32).contiguous()
    y, x = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    plane = torch.stack([x.flatten(), y.flatten(), torch.ones(100)], 1)
    bent = []
    for severity in SEVERITIES:
        inside = corrupt(ramps, "elastic_transform", severity)[:, 0, 11:21, 11:21].flatten(1).float().T
        residual = inside - plane @ torch.linalg.lstsq(plane, inside).solution
        bent.append(float(residual.square().mean().sqrt()))
    assert bent[0] < 0.5, "severity 1 is affine, up to rounding"
    assert bent == sorted(bent)
    assert bent[4] > 1.5


def test_noise_has_the_published_size() -> None:
    gray = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    for severity, scale in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        assert corrupt(gray, "gaussian_noise", severity).float().std() / 255 == pytest.approx(scale, rel=0.02)
    for severity, photons in enumerate((500, 250, 100, 75, 50), 1):
        noisy = corrupt(gray, "shot_noise", severity).float() / 255
        assert noisy.mean() == pytest.approx(128 / 255, abs=0.003)
        assert noisy.var() == pytest.approx(128 / 255 / photons, rel=0.05), "rounding adds a little"
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        noisy = corrupt(gray, "impulse_noise", severity)
        for extreme in (0, 255):
            assert (noisy == extreme).double().mean() == pytest.approx(share / 2, rel=0.1)
        assert set(noisy.unique().tolist()) == {0, 128, 255}


def test_what_has_a_closed_form_has_its_values() -> None:
    image = torch.tensor([[0, 100, 200], [40, 20, 10]], dtype=torch.uint8).T.reshape(1, 3, 2, 1)
    image = F.pad(image, (0, 7, 0, 6))  # black elsewhere
    brighter = corrupt(image, "brightness", 5)[0]
    added = 0.3 * 255
    assert brighter[:, 0, 0].tolist() == [0, round(100 * 255 / 200), 255], "hue and saturation stay"
    assert brighter[:, 1, 0].tolist() == pytest.approx([each * (40 + added) / 40 for each in (40, 20, 10)], abs=0.51)
    assert brighter[:, 7, 7].tolist() == pytest.approx([added] * 3, abs=0.51), "black becomes gray"
    flatter = corrupt(image, "contrast", 5)[0].float()
    mean_C11 = image[0].float().mean((1, 2), keepdim=True)
    torch.testing.assert_close(flatter, mean_C11 + 0.15 * (image[0].float() - mean_C11), atol=0.51, rtol=0)


@pytest.mark.parametrize(
    "kind", ["defocus_blur", "motion_blur", "zoom_blur", "glass_blur", "elastic_transform", "pixelate"]
)
def test_what_moves_pixels_leaves_a_single_colour_alone(kind: Corruption) -> None:
    plain = torch.tensor([30, 120, 250], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 24, 24).contiguous()
    for severity in SEVERITIES:
        assert torch.equal(corrupt(plain, kind, severity), plain)


def test_a_point_is_streaked_to_one_side_within_the_angles() -> None:
    point = torch.zeros(50, 1, 33, 33, dtype=torch.uint8)
    point[:, :, 16, 16] = 255
    streaked = corrupt(point, "motion_blur", 5)[:, 0]
    assert streaked[:, :, 17:].count_nonzero() == 0, "it reads from one side"
    rows, columns = (streaked > 0).any(0).nonzero().T
    assert bool(((rows - 16).abs() <= 16 - columns + 1).all())
    assert len(set(rows.tolist())) > 5, "each image has its own angle"


def test_larger_images_get_the_settings_of_imagenet_c() -> None:
    small, large = (torch.full((4, 3, side, side), 128, dtype=torch.uint8) for side in (64, 65))
    for images, scale in ((small, 0.10), (large, 0.38)):
        noisy = corrupt(images, "gaussian_noise", 5).double() / 255
        expected = np.clip(128 / 255 + scale * np.random.default_rng(0).standard_normal(100_000), 0, 1).std()
        assert noisy.std() == pytest.approx(expected, rel=0.02)


def test_there_are_five_settings_of_each_of_fifteen_kinds() -> None:
    assert len(CORRUPTIONS) == 15
    for table in (CIFAR, IMAGENET):
        assert tuple(table) == CORRUPTIONS == tuple(corruptions.KINDS)
        assert {len(settings) for settings in table.values()} == {5}


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(InputError, match=r"images need at least 8x8 pixels; these have 8x7"):
        corrupt(torch.zeros(1, 3, 8, 7, dtype=torch.uint8), "fog", 1)

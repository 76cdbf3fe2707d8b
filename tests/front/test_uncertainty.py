import math
from itertools import pairwise
from typing import Any

import pytest
from made_by_hand import curve, record, study

from cfamc_ray.front.front import find_front
from cfamc_ray.front.uncertainty import interval_of, noise_groups, within_noise

IMAGES: dict[str, Any] = {"validation_images": 400, "attacked_images": 100}
BOTH = ("clean_accuracy", "robust_accuracy")


def wilson(share: float, images: int) -> tuple[float, float]:
    """The roots of (p - share)² = z² p (1 - p) / images."""
    z2 = 1.959963984540054**2
    middle, half = share + z2 / (2 * images), math.sqrt(z2 * (share * (1 - share) / images + z2 / (4 * images**2)))
    return (middle - half) / (1 + z2 / images), (middle + half) / (1 + z2 / images)


def test_each_accuracy_has_the_wilson_interval_of_its_own_number_of_images() -> None:
    one = record(0, clean_accuracy=0.5, robust_accuracy=0.2, **IMAGES)
    assert interval_of(one, "clean_accuracy") == pytest.approx(wilson(0.5, 400))
    assert interval_of(one, "robust_accuracy") == pytest.approx(wilson(0.2, 100))


def test_an_operating_point_has_the_interval_of_its_own_accuracy() -> None:
    weak, strong = curve(0, (0.01, 0.6, 0.1), (0.1, 0.5, 0.3), **IMAGES).each_point(BOTH)
    assert interval_of(weak, "robust_accuracy") == pytest.approx(wilson(0.1, 100))
    assert interval_of(strong, "robust_accuracy") == pytest.approx(wilson(0.3, 100))


@pytest.mark.parametrize(
    ("metric", "given"),
    [
        ("crop_passes", IMAGES),
        ("robust_accuracy", {}),
        ("robust_accuracy", IMAGES | {"robust_accuracy": None}),
        ("robust_accuracy", {"attacked_images": 0}),
    ],
    ids=["a cost", "no number of images", "no accuracy", "no image"],
)
def test_what_is_no_share_of_images_has_no_interval(metric: str, given: dict[str, Any]) -> None:
    assert interval_of(record(0, **given), metric) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_points_are_within_noise_unless_the_intervals_of_an_objective_are_disjoint() -> None:
    near, far = (record(n, clean_accuracy=0.5, robust_accuracy=value, **IMAGES) for n, value in enumerate((0.3, 0.6)))
    middle = record(2, clean_accuracy=0.5, robust_accuracy=0.45, **IMAGES)
    assert not within_noise(near, far, BOTH)
    assert within_noise(near, middle, BOTH)
    assert within_noise(middle, far, BOTH)
    assert within_noise(near, far, ["clean_accuracy"])


def test_a_cost_is_exact_so_another_cost_tells_points_apart() -> None:
    cheap, dear, same = (record(n, crop_passes=passes, **IMAGES) for n, passes in enumerate((10, 11, 10)))
    objectives = ("clean_accuracy", "crop_passes")
    assert not within_noise(cheap, dear, objectives)
    assert within_noise(cheap, same, objectives)


def test_groups_are_neighbours_along_the_front_of_which_all_pairs_are_within_noise() -> None:
    records = [record(n, clean_accuracy=0.9 - 0.05 * n, robust_accuracy=0.1 + 0.05 * n, **IMAGES) for n in range(12)]
    front = find_front(study(), records)
    groups = noise_groups(front)
    assert [member for group in groups for member in group] == front.members
    assert 1 < len(groups) < len(front.members)
    assert all(within_noise(one, other, BOTH) for group in groups for one in group for other in group)
    for group, after in pairwise(groups):
        assert not all(within_noise(member, after[0], BOTH) for member in group), "it could have been one more"


def test_without_intervals_nothing_is_said_of_noise() -> None:
    assert noise_groups(find_front(study(), [record(0), record(1, clean_accuracy=0.4, robust_accuracy=0.3)])) == []
    assert noise_groups(find_front(study(), [])) == []

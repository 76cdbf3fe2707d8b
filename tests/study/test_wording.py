import math

import pytest

from cfamc_ray.study.wording import show_radius, show_seconds, show_value


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (360_000, "100 h 00 min"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("clean_accuracy", 0.1234, "12.3%"),
        ("robust_accuracy", 0.0, "0.0%"),
        ("crop_passes", 2_160_000, "2.16e+06"),
        ("train_seconds", 185.0, "3 min 05 s"),
        ("clean_accuracy", None, "–"),
        ("robust_accuracy", math.nan, "–"),
        ("flops", math.inf, "–"),
    ],
)
def test_values_read_as_a_person_says_them(metric: str, value: float | None, shown: str) -> None:
    assert show_value(metric, value) == shown


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [
        (4 / 255, "4/255"),
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (0.03, "7.65/255"),
        (0.0, "0/255"),
        (1.0, "255/255"),
    ],
)
def test_radii_read_in_grey_levels(epsilon: float, shown: str) -> None:
    assert show_radius(epsilon) == shown

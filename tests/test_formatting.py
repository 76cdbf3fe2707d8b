import math
from collections.abc import Sequence

import pytest

from cfamc_ray.config.types import Norm
from cfamc_ray.formatting import format_point, format_radius, format_seconds, format_setting, format_value, sparkline


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
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("clean_accuracy", 0.1234, "12.3%"),
        ("robust_accuracy", 0.0, "0.0%"),
        ("crop_passes", 2_160_000, "2.16M"),
        ("crop_passes", 999, "999"),
        ("crop_passes", 40_000, "40k"),
        ("crop_passes", 999_600, "1M"),
        ("peak_memory_bytes", 1_935_032_320, "1.94G"),
        ("flops", 1.02e13, "10.2T"),
        ("flops", 5e21, "5e+21"),
        ("flops", 0, "0"),
        ("loss", 12345.6, "1.23e+04"),
        ("train_seconds", 185.0, "3 min 05 s"),
        ("clean_accuracy", None, "–"),
        ("robust_accuracy", math.nan, "–"),
        ("flops", math.inf, "–"),
    ],
)
def test_values_read_as_a_person_says_them(metric: str, value: float | None, shown: str) -> None:
    assert format_value(metric, value) == shown


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
    assert format_radius(epsilon) == shown


@pytest.mark.parametrize(("norm", "shown"), [("linf", "128/255"), ("l2", "l₂ 0.502"), (None, "0.502")])
def test_a_radius_tells_its_norm_where_it_is_known(norm: Norm | None, shown: str) -> None:
    norms: dict[str, Norm | None] = {"perturbation.epsilon": norm}
    assert format_radius(128 / 255, norm) == shown
    assert format_setting("perturbation.epsilon", 128 / 255, norms) == shown
    assert format_setting("optimizer.lr", 0.5, norms) == "0.5"
    point = {"crops.views": 4, "perturbation.epsilon": 128 / 255}
    assert format_point(point, norms) == f"views 4, epsilon {shown}"
    assert format_point(point) == "views 4, epsilon 128/255"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([0, 0.5, 1], "▁▅█"),
        (range(8), "▁▂▃▄▅▆▇█"),
        (range(32), "▁▂▃▄▅▆▇█"),
        ([*[0.0] * 31, 1.0], "▁▁▁▁▁▁▁█"),
    ],
)
def test_a_sparkline_runs_from_the_smallest_to_the_largest_value_and_ends_with_the_last(
    values: Sequence[float], shown: str
) -> None:
    assert sparkline(values, width=8) == shown

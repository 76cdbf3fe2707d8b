"""How numbers are written for people."""

import math
from collections.abc import Mapping, Sequence

from cfamc_ray.config.components import field_of
from cfamc_ray.config.stages import TRUNK
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.metrics import Unit, find_metric

LETTERS = ("", "k", "M", "G", "T", "P", "E")
MISSING = "–"
BLOCKS = "▁▂▃▄▅▆▇█"
Norms = Mapping[str, Norm | None]
"""Norms of radii by their keys, as `norms_of` gives them; l∞ for a key that is left out."""
IN_LINF: Norms = {}


def format_value(metric: str, value: float | None) -> str:
    """A metric in its unit, such as 12.3% or 2.16M; a dash where it is missing."""
    return format_quantity(find_metric(metric).unit, value)


def format_quantity(unit: Unit, value: float | None) -> str:
    """A number in a unit; a dash where it is missing."""
    if value is None or not math.isfinite(value):
        return MISSING
    match unit:
        case "fraction":
            return f"{value:.1%}"
        case "seconds":
            return format_seconds(value)
        case "pixels":
            return format_radius(value)
        case "number":
            return f"{value:.3g}"
    return format_count(value)


def format_count(value: float) -> str:
    """Three digits and a letter for thousands, millions, …: 40k, 2.16M, 10.2T."""
    size = max((n for n in range(len(LETTERS)) if abs(value) >= 999.5 * 1000 ** (n - 1)), default=0)
    return (
        f"{value / 1000**size:.3g}{LETTERS[size]}"
        if abs(value) < 999.5 * 1000 ** (len(LETTERS) - 1)
        else f"{value:.3g}"
    )


def format_seconds(seconds: float) -> str:
    """A duration such as 42 s, 3 min 05 s or 2 h 07 min."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def format_radius(epsilon: float, norm: Norm | None = "linf") -> str:
    """The radius of a ball: in the l∞ norm in grey levels, such as 8/255, in the l2 norm as l₂ 0.5.

    Args:
        epsilon: radius.
        norm: norm of the ball; None where it is not known, which leaves the number.
    """
    match norm:
        case "linf":
            return f"{epsilon * 255:.3g}/255"
        case "l2":
            return f"l₂ {epsilon:.3g}"
    return f"{epsilon:.3g}"


def format_change(metric: str, change: float) -> str:
    """A difference with its sign, such as +1.2 points for a metric that is a fraction, or -3.1e+04."""
    points = " points" if find_metric(metric).unit == "fraction" and math.isfinite(change) else ""
    return _signed(metric, change) + points


def format_interval(metric: str, interval: tuple[float, float]) -> str:
    """Both ends of an interval of differences, in the unit of the difference that stands beside it."""
    return " to ".join(_signed(metric, end) for end in interval)


def _signed(metric: str, change: float) -> str:
    if not math.isfinite(change):
        return MISSING
    return f"{100 * change:+.1f}" if find_metric(metric).unit == "fraction" else f"{change:+.3g}"


def format_metric(metric: str, value: float | None) -> str:
    """A metric with its label, as in clean accuracy 12.3%."""
    return f"{find_metric(metric).label} {format_value(metric, value)}"


def format_point(point: Mapping[str, object], norms: Norms = IN_LINF) -> str:
    """Settings with their short names, as in views 4, epsilon 8/255.

    Args:
        point: keys and values.
        norms: norms of the radii among them.
    """
    names = short_names(list(point))
    return ", ".join(f"{name} {format_setting(key, point[key], norms)}" for name, key in zip(names, point, strict=True))


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted keys and labels as headings: of a key its last part, unless another one has the same last part."""
    leaves = [name.rpartition(".")[2] for name in names]
    short = [leaf if leaves.count(leaf) == 1 else name for leaf, name in zip(leaves, names, strict=True)]
    return [name.replace("_", " ") for name in short]


def format_setting(key: str, value: object, norms: Norms = IN_LINF) -> str:
    """The value of a key; of a radius in its norm (`format_radius`)."""
    if isinstance(value, float):
        return format_radius(value, norms.get(key, "linf")) if is_radius(key) else f"{value:.4g}"
    return "null" if value is None else str(value)


def is_radius(key: str) -> bool:
    """Whether the values of a trial's key are a `Radius`, or a step in `Pixels`."""
    field = field_of(TrialConfig, key.removeprefix(TRUNK))
    extra = field.json_schema_extra if field else None
    return isinstance(extra, dict) and extra.get("unit") == "pixels"


def sparkline(values: Sequence[float], *, width: int = 16) -> str:
    """Values as a line of blocks, from the smallest to the largest; the last of each equal part where there are many.

    Args:
        values: finite numbers.
        width: largest number of blocks.
    """
    places = [round((block + 1) * len(values) / width) - 1 for block in range(width)]
    shown = [values[place] for place in places] if len(values) > width else list(values)
    low, span = min(shown, default=0.0), max(shown, default=0.0) - min(shown, default=0.0)
    return "".join(BLOCKS[round((value - low) / (span or 1.0) * (len(BLOCKS) - 1))] for value in shown)

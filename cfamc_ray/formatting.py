"""How numbers are written for people."""

import math
from collections.abc import Mapping, Sequence

COUNTED = ("passes", "flops", "bytes")
"""Endings of metrics that are counts, and mostly large."""
LETTERS = ("", "k", "M", "G", "T", "P", "E")


def format_value(metric: str, value: float | None) -> str:
    """A metric as a person reads it; a dash where it is missing."""
    if value is None or not math.isfinite(value):
        return "–"
    if metric.endswith("accuracy"):
        return f"{value:.1%}"
    if metric.endswith("seconds"):
        return format_seconds(value)
    return format_count(value) if metric.endswith(COUNTED) else f"{value:.3g}"


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


def format_radius(epsilon: float) -> str:
    """The radius of an l∞ ball in grey levels, such as 8/255."""
    return f"{epsilon * 255:.3g}/255"


def format_change(metric: str, change: float) -> str:
    """A difference with its sign: of an accuracy in points, of what is counted with three digits."""
    if not math.isfinite(change):
        return "–"
    return f"{100 * change:+.1f} points" if metric.endswith("accuracy") else f"{change:+.3g}"


def format_interval(metric: str, interval: tuple[float, float]) -> str:
    """Both ends of an interval of differences: of an accuracy in points, which the difference beside it names."""
    return " to ".join(format_change(metric, end).removesuffix(" points") for end in interval)


def format_point(point: Mapping[str, object]) -> str:
    """Settings by their short names, as in views 4, epsilon 8/255."""
    names = short_names(list(point))
    return ", ".join(f"{name} {format_setting(key, point[key])}" for name, key in zip(names, point, strict=True))


def short_names(names: Sequence[str]) -> list[str]:
    """Keys and metrics as a person reads them; of a key its last part, where no other ends alike."""
    leaves = [name.rpartition(".")[2] for name in names]
    short = [leaf if leaves.count(leaf) == 1 else name for leaf, name in zip(leaves, names, strict=True)]
    return [name.replace("_", " ") for name in short]


def format_setting(key: str, value: object) -> str:
    """A value of a key; a radius in grey levels."""
    if key.endswith("epsilon") and isinstance(value, float) and "rate" not in key:
        return format_radius(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)

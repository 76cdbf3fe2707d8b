"""The figure of all trials as lines across their keys and results."""

from collections.abc import Sequence
from typing import Any

from cfamc_ray.figures.chart import Parallel, Upright
from cfamc_ray.formatting import MISSING, format_setting, format_value, short_names
from cfamc_ray.front.scales import ABSENT, Scale
from cfamc_ray.metrics import find_metric

MOST_TICKS = 6
"""Values of a scale that all have a tick; of more, five even places have."""
ABOVE_MISSING = 0.12
"""Place of the lowest value of a key that some trials do not have."""


def parallel_chart(scales: Sequence[Scale], ids: Sequence[str], *, headline: str) -> Parallel:
    """A line for each trial across upright axes of its keys and metrics.

    Args:
        scales: of `find_scales`.
        ids: of the trials.
        headline: metric that colours the lines.
    """
    keys = short_names([scale.name for scale in scales if scale.key])
    labels = [*keys, *(find_metric(scale.name).label for scale in scales if not scale.key)]
    return Parallel(
        "parallel",
        "Trials across their keys and results",
        [_upright(label, scale) for label, scale in zip(labels, scales, strict=True)],
        ids,
        colour=[scale.name for scale in scales].index(headline),
        missing="no trial has finished yet",
    )


def _upright(label: str, scale: Scale) -> Upright:
    bottom = ABOVE_MISSING if ABSENT in scale.values else 0.0
    present = [value for value in scale.values if value is not ABSENT]
    if scale.ordered and len(set(present)) > MOST_TICKS:
        numbers = [scale.value_at(share / 4) for share in range(5)]
        marked = [round(number) for number in numbers] if isinstance(present[0], int) else numbers
    else:
        marked = sorted(set(present)) if scale.ordered else list(scale.options)
    places = {value: bottom + (1 - bottom) * scale.share(value) for value in [*present, *marked]}
    return Upright(
        label,
        [0.0 if value is ABSENT else places[value] for value in scale.values],
        [*([(0.0, MISSING)] if bottom else []), *((places[value], _written(scale, value)) for value in marked)],
    )


def _written(scale: Scale, value: Any) -> str:
    return format_setting(scale.name, value, scale.norms) if scale.key else format_value(scale.name, value)

"""Placement of the labels of points, so that they neither overlap nor cross the edge of the panel."""

import math
from collections.abc import Sequence
from typing import Literal

from cfamc_ray.figures.chart import Area, Axis, Line, Panel, Points

Side = tuple[Literal["top", "bottom"], Literal["right", "left"]]
"""The side of its point on which a label lies."""
SIDES: tuple[Side, ...] = (("top", "right"), ("bottom", "right"), ("top", "left"), ("bottom", "left"))
LETTER, HEIGHT, GAP = 0.011, 0.04, 0.01
"""Width of a letter, height of a line, and distance from the point, as shares of the panel."""

Box = tuple[float, float, float, float]


def label_sides(panel: Panel, mark: Points) -> list[Side]:
    """For each label the first side on which it fits, or else the side on which it overlaps least.

    Args:
        panel: that holds the points.
        mark: the points.
    """
    if not mark.labels:
        return []
    drawn = [one for one in panel.marks if isinstance(one, Points | Line | Area)]
    ends = [one for one in drawn if isinstance(one, Points)]
    every_x = [*(x for one in drawn for x in one.x), *(x for one in ends for bar in one.x_intervals for x in bar)]
    every_y = [*(y for one in drawn for y in one.y), *(y for one in ends for bar in one.y_intervals for y in bar)]
    xs, ys = _shares(mark.x, every_x, panel.x), _shares(mark.y, every_y, panel.y)
    taken = [(x - GAP, y - GAP, x + GAP, y + GAP) for x, y in zip(xs, ys, strict=True)]
    sides = []
    for x, y, label in zip(xs, ys, mark.labels, strict=True):
        boxes = [_box(x, y, len(label) * LETTER, side) for side in SIDES]
        covered = [sum(_overlap(box, other) for other in taken) + _outside(box) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        sides.append(SIDES[best])
    return sides


def _shares(values: Sequence[float], every: Sequence[float], axis: Axis) -> list[float]:
    """Positions of values on an axis, from 0 to 1."""
    scale = math.log if axis.log else float
    known = [value for value in every if math.isfinite(value)]
    low, high = scale(min(known)), scale(max(known))
    return [(scale(value) - low) / (high - low) if high > low else 0.5 for value in values]


def _box(x: float, y: float, width: float, side: Side) -> Box:
    left = x + GAP if side[1] == "right" else x - GAP - width
    low = y + GAP if side[0] == "top" else y - GAP - HEIGHT
    return left, low, left + width, low + HEIGHT


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: Box) -> float:
    """Area beyond the left and right edges; above and below there is a margin."""
    return (max(box[2] - 1, 0.0) + max(-box[0], 0.0)) * HEIGHT

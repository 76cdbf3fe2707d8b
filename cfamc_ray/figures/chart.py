"""Figures as data, independent of what draws them: panels of points, lines, areas and bars."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cfamc_ray.metrics import Unit


class Axis(NamedTuple):
    """The quantity on one axis of a panel."""

    label: str
    unit: Unit = "number"
    log: bool = False


class Points(NamedTuple):
    """Points in a panel."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["plain", "front", "faint", "published"] = "plain"
    colour: Sequence[float] = ()
    """Value of each point on the chart's colour axis; empty: the points are not coloured by a value."""
    labels: Sequence[str] = ()
    """Text beside each point; empty: none."""
    details: Sequence[str] = ()
    """Text shown while the mouse is over each point; <br> breaks a line."""
    commands: Sequence[str] = ()
    """Command that belongs to each point; empty: none."""
    x_intervals: Sequence[tuple[float, float]] = ()
    """Ends of the error bar of each point along x, NaN for none; empty: no point has one."""
    y_intervals: Sequence[tuple[float, float]] = ()
    hue: int | None = None
    """Index of the colour in the palette, so that points and lines can share one; None: the next colour."""


class Line(NamedTuple):
    """A line through points; a point that is NaN interrupts it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["plain", "unmarked", "stairs", "steps", "faint", "curve", "group", "attained"] = "plain"
    """Stairs, steps and attained are constant until the next point; stairs are as bold as plain lines. A curve
    joins points that are drawn by themselves, and a group, broad and pale, those that belong together."""
    details: str | Sequence[str] = ""
    """Text shown while the mouse is over the line, or over each of its points."""
    hue: int | None = None
    """As for points."""


class Area(NamedTuple):
    """The area within a closed outline."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Bars(NamedTuple):
    """Horizontal bars; bars with the same label are stacked."""

    name: str
    labels: Sequence[str]
    lengths: Sequence[float]


class Panel(NamedTuple):
    """One pair of axes."""

    x: Axis
    y: Axis
    marks: Sequence[Points | Line | Area | Bars]
    title: str = ""
    missing: str = ""
    """Text that is shown if there are no marks."""


class Chart(NamedTuple):
    """A figure."""

    name: str
    """Name of its files, without an ending."""
    title: str
    panels: Sequence[Panel]
    columns: int = 1
    colour: Axis | None = None
    """The quantity that points are coloured by, on a log scale from dark (little) to light (much)."""


class Upright(NamedTuple):
    """One of the axes of parallel coordinates."""

    label: str
    places: Sequence[float]
    """Of each line, from 0 (bottom) to 1 (top)."""
    ticks: Sequence[tuple[float, str]]
    """Places with their texts."""


class Parallel(NamedTuple):
    """Parallel coordinates: a line for each thing across upright axes."""

    name: str
    """Name of its files, without an ending."""
    title: str
    axes: Sequence[Upright]
    ids: Sequence[str]
    """What each line stands for."""
    colour: int
    """Index of the axis whose places colour the lines, from dark (bottom) to light (top)."""
    missing: str = ""
    """Text that is shown if there are no lines."""


def error_bars(mark: Points) -> list[list[tuple[float, float]]]:
    """Lengths below and above each point of its error bars along x, and along y; empty where no point has one."""
    return [
        [
            (max(value - low, 0.0), max(high - value, 0.0))
            for value, (low, high) in zip(values, intervals, strict=bool(intervals))
        ]
        for values, intervals in ((mark.x, mark.x_intervals), (mark.y, mark.y_intervals))
    ]

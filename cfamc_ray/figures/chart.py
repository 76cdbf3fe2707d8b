"""What a figure shows, whatever draws it: panels of points, lines, bands and bars."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Unit = Literal["share", "seconds", "count", "number"]
"""How an axis is written: in per cent, as a duration, in thousands and millions, or as it is."""


class Axis(NamedTuple):
    """What one direction of a panel stands for."""

    label: str
    unit: Unit = "number"
    log: bool = False


class Points(NamedTuple):
    """Places in a panel."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["plain", "front", "faint", "published"] = "plain"
    colour: Sequence[float] = ()
    """Value of each point on the chart's colour axis; empty: none has one."""
    labels: Sequence[str] = ()
    """Written beside each point; empty: nothing is."""
    details: Sequence[str] = ()
    """Shown where a person points at one; a line ends in <br>."""
    hue: int | None = None
    """Which colour of the palette, so that points and lines that belong together share one; None: the next."""


class Line(NamedTuple):
    """A line through places; where one is not a number, it breaks off and begins anew at the next."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["plain", "unmarked", "stairs", "steps", "faint", "attained"] = "plain"
    """Stairs, steps and attained hold until the next place; stairs are drawn as strongly as plain lines."""
    details: str | Sequence[str] = ""
    """Shown where a person points at the line, or at each of its places."""
    hue: int | None = None
    """As of points."""


class Area(NamedTuple):
    """What lies within a closed outline."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Bars(NamedTuple):
    """Horizontal bars; those of one label are stacked."""

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
    """Why there is nothing to be seen, where there is nothing."""


class Chart(NamedTuple):
    """A figure."""

    name: str
    """Of its files, without an ending."""
    title: str
    panels: Sequence[Panel]
    columns: int = 1
    colour: Axis | None = None
    """Of the points that have a value on it, from dark for little to light for much, on a log scale."""

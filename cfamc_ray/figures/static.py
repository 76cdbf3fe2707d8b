"""Charts as files: PNG, SVG or PDF, by matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from cfamc_ray.figures.chart import Area, Axis, Bars, Chart, Line, Panel, Parallel, Points, error_bars
from cfamc_ray.figures.labels import Side, label_sides
from cfamc_ray.formatting import format_radius, format_seconds
from cfamc_ray.host.files import replacing

PANEL_INCHES = ((7.2, 5.0), (4.0, 3.0))
"""Width and height of a single panel, and of one among several."""
NARROWEST = 2.4
"""Inches that a panel needs beside another one."""
COLUMN_INCHES = {"one": 3.35, "two": 6.9}
"""Widths of figures in a paper, by the number of columns that they span."""
MOST_INSIDE = 3
"""Entries of a legend for which a panel has room."""
BELOW_LABELS = 0.45
"""Inches between a panel and a legend below it."""
DATED = {"svg": "Date", "pdf": "CreationDate"}
"""Formats whose metadata hold the time of writing, and the name of that entry."""
POINTS: dict[str, dict[str, Any]] = {
    "plain": {"s": 22, "linewidth": 0, "alpha": 0.8, "zorder": 2},
    "front": {"s": 72, "edgecolor": "black", "linewidth": 0.8, "zorder": 4},
    "faint": {"s": 36, "linewidth": 0, "alpha": 0.45, "zorder": 2},
    "published": {"s": 60, "marker": "*", "color": "tab:red", "zorder": 3},
}
LINES: dict[str, dict[str, Any]] = {
    "plain": {"lw": 1.6, "zorder": 3},
    "unmarked": {"lw": 1.2, "zorder": 1},
    "stairs": {"lw": 1.6, "marker": "o", "ms": 4, "zorder": 3, "drawstyle": "steps-post"},
    "steps": {"color": "0.5", "lw": 1.2, "drawstyle": "steps-post", "zorder": 1},
    "faint": {"color": "0.6", "lw": 0.8, "alpha": 0.6, "zorder": 1},
    "curve": {"color": "0.6", "lw": 0.8, "alpha": 0.7, "zorder": 1.5},
    "group": {"color": "0.5", "lw": 14, "alpha": 0.2, "zorder": 0.5, "solid_capstyle": "round"},
    "attained": {"color": "tab:orange", "lw": 1.6, "drawstyle": "steps-post", "zorder": 3},
}
ERRORS: dict[str, Any] = {"fmt": "none", "ecolor": "0.45", "elinewidth": 0.7, "alpha": 0.4, "zorder": 3.5}
AREA: dict[str, Any] = {"color": "tab:orange", "alpha": 0.18, "linewidth": 0, "zorder": 0}


def draw(chart: Chart | Parallel, *, inches: float | None = None) -> Figure:
    """A chart as a figure of matplotlib.

    Args:
        chart: to draw.
        inches: width of the figure, whose panels are below each other where it has no room for two; None: a width for
            screens.
    """
    if isinstance(chart, Parallel):
        return _draw_parallel(chart, inches or PANEL_INCHES[0][0])
    columns = min(chart.columns, len(chart.panels), max(1, int((inches or 99) / NARROWEST)))
    rows = math.ceil(len(chart.panels) / columns)
    width, height = PANEL_INCHES[len(chart.panels) > 1]
    if inches is not None:
        width, height = inches / columns, height * inches / columns / width
    figure = _figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    norm = _norm(chart)
    for panel, axes in zip(chart.panels, grid.flat, strict=False):
        _draw_panel(panel, axes, norm)
    for axes in grid.flat[len(chart.panels) :]:
        axes.set_axis_off()
    if norm is not None and chart.colour is not None:
        bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=grid, label=chart.colour.label)
        _format(bar.ax.yaxis, chart.colour._replace(log=True))
    if len(chart.panels) == 1:
        grid[0, 0].set_title(_plain(chart.title), loc="left", fontsize=11, wrap=True)
    else:
        figure.suptitle(_plain(chart.title), x=0.01, ha="left", fontsize=11)
    return figure


def _plain(text: str) -> str:
    """What people wrote, in which matplotlib would take what is between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _draw_parallel(chart: Parallel, width: float) -> Figure:
    figure = _figure(width, PANEL_INCHES[0][1] * width / PANEL_INCHES[0][0])
    axes = figure.subplots()
    axes.set_title(_plain(chart.title), loc="left", fontsize=11, wrap=True)
    axes.set_axis_off()
    if not chart.ids:
        axes.text(0.5, 0.5, chart.missing, ha="center", va="center", transform=axes.transAxes)
        return figure
    places = np.array([axis.places for axis in chart.axes])
    for line in range(len(chart.ids)):
        axes.plot(places[:, line], color=colormaps["viridis"](places[chart.colour, line]), lw=1, alpha=0.8)
    for x, axis in enumerate(chart.axes):
        axes.plot([x, x], [0, 1], color="0.5", lw=0.8, zorder=0)
        axes.text(x, 1.04, axis.label, ha="left", va="bottom", rotation=20, fontsize=8)
        for place, text in axis.ticks:
            axes.annotate(_plain(text), (x, place), (2, 0), textcoords="offset points", va="center", fontsize=7)
    return figure


def save_chart(chart: Chart | Parallel, folder: Path) -> None:
    """Write a chart into a folder under its own name, for screens: as PNG and SVG."""
    figure = draw(chart)
    save_figure(figure, folder / f"{chart.name}.png")
    figure.set_layout_engine(None)  # the layout is done, and would take as long as drawing
    save_figure(figure, folder / f"{chart.name}.svg")


def save_for_paper(chart: Chart | Parallel, folder: Path) -> None:
    """Write a chart as PDF for one and for two columns of a paper: NAME_one.pdf and NAME_two.pdf."""
    for columns, inches in COLUMN_INCHES.items():
        with rc_context({"font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7}):
            save_figure(draw(chart, inches=inches), folder / f"{chart.name}_{columns}.pdf")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically; the ending decides the format. Equal figures give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix[1:] or "png"
    with rc_context({"svg.hashsalt": "cfamc_ray", "pdf.fonttype": 42}), replacing(path) as partial:
        figure.savefig(partial, format=ending, metadata={DATED[ending]: None} if ending in DATED else None)


def _norm(chart: Chart) -> LogNorm | None:
    values = [
        value for panel in chart.panels for mark in panel.marks if isinstance(mark, Points) for value in mark.colour
    ]
    return LogNorm(min(values), max(*values, min(values) * 1.01)) if values and chart.colour else None


def _draw_panel(panel: Panel, axes: Axes, norm: LogNorm | None) -> None:
    if not panel.marks:
        axes.text(0.5, 0.5, panel.missing, ha="center", va="center", transform=axes.transAxes, wrap=True)
    for mark in panel.marks:
        match mark:
            case Points():
                _draw_points(mark, axes, norm, label_sides(panel, mark))
            case Line():
                axes.plot(mark.x, mark.y, label=mark.name or None, **(LINES[mark.style] | _hue(mark)))
            case Area():
                axes.fill(mark.x, mark.y, label=mark.name or None, **AREA)
            case Bars():
                _draw_bars(mark, axes)
    for axis, set_scale, wanted in (
        (axes.xaxis, axes.set_xscale, panel.x),
        (axes.yaxis, axes.set_yscale, panel.y),
    ):
        axis.set_label_text(wanted.label)
        if wanted.log:
            set_scale("log")
        _format(axis, wanted)
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08)
    names = [mark.name for mark in panel.marks if mark.name]
    bars = any(isinstance(mark, Bars) for mark in panel.marks)
    if names and (bars or len(names) > MOST_INSIDE):  # for which there is no room inside
        columns = min(3 if bars else 2, len(names))
        below = axes.transAxes + ScaledTranslation(0, -BELOW_LABELS, axes.figure.dpi_scale_trans)
        style = {"ncols": columns, "frameon": False, "fontsize": 8}
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, **style)
    elif names:
        axes.legend(loc="best", frameon=False, fontsize=8)


def _draw_points(mark: Points, axes: Axes, norm: LogNorm | None, sides: Sequence[Side]) -> None:
    colours = {"c": mark.colour, "cmap": "viridis", "norm": norm} if mark.colour and norm else {}
    axes.scatter(mark.x, mark.y, label=mark.name or None, **(POINTS[mark.style] | colours | _hue(mark)))
    if mark.x_intervals or mark.y_intervals:
        x_bars, y_bars = (np.transpose(bars) if bars else None for bars in error_bars(mark))
        axes.errorbar(mark.x, mark.y, xerr=x_bars, yerr=y_bars, **ERRORS)
    for x, y, label, (vertical, horizontal) in zip(mark.x, mark.y, mark.labels, sides, strict=bool(mark.labels)):
        offset = (6 if horizontal == "right" else -6, 6 if vertical == "top" else -6)
        align: dict[str, Any] = {
            "ha": "left" if horizontal == "right" else "right",
            "va": "bottom" if vertical == "top" else "top",
        }
        axes.annotate(label, (x, y), textcoords="offset points", xytext=offset, fontsize=8, **align)


def _hue(mark: Points | Line) -> dict[str, str]:
    return {} if mark.hue is None else {"color": f"C{mark.hue}"}


def _draw_bars(mark: Bars, axes: Axes) -> None:
    """Stacked on the bars that the panel already has, with the first label at the top."""
    begun = dict.fromkeys(mark.labels, 0.0)
    for container in axes.containers:
        for label, bar in zip(mark.labels, container, strict=True):
            begun[label] += bar.get_width()
    axes.barh(list(mark.labels), list(mark.lengths), left=list(begun.values()), label=mark.name or None)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _format(axis: MatplotlibAxis, wanted: Axis) -> None:
    match wanted.unit:
        case "fraction":
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
        case "seconds":
            axis.set_major_formatter(FuncFormatter(lambda seconds, _: format_seconds(seconds)))
        case "pixels":
            axis.set_major_formatter(FuncFormatter(lambda value, _: format_radius(value)))
        case "number":
            if wanted.log:
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        case _:
            axis.set_major_formatter(EngFormatter(sep=""))
    if wanted.log:  # matplotlib would write the ticks between powers of ten as 2×10⁴
        low, high = axis.get_view_interval()
        if high > 4 * low:  # nine labels for each power of ten would overlap
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_minor_formatter(axis.get_major_formatter())

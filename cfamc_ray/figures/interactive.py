"""Charts for an HTML page, drawn by Plotly: a figure for each panel, so that they adapt to the width of the page."""

import base64
import gzip
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.offline import get_plotlyjs

from cfamc_ray.figures.chart import Area, Axis, Bars, Chart, Line, Panel, Parallel, Points, error_bars
from cfamc_ray.figures.labels import Side, label_sides
from cfamc_ray.formatting import format_quantity

HEIGHTS = (460, 320)
"""Height in pixels of a single panel, and of one among several."""
POINTS: dict[str, dict[str, Any]] = {
    "plain": {"size": 6, "opacity": 0.8},
    "front": {"size": 13, "line": {"width": 1.5, "color": "#888"}},
    "faint": {"size": 8, "opacity": 0.55},
    "published": {"size": 11, "symbol": "star", "color": "#d62728"},
}
LINES: dict[str, dict[str, Any]] = {
    "plain": {"width": 2},
    "unmarked": {"width": 1.5},
    "stairs": {"width": 2, "shape": "hv"},
    "steps": {"width": 1.5, "color": "#888", "shape": "hv"},
    "faint": {"width": 1, "color": "rgba(128, 128, 128, 0.45)"},
    "curve": {"width": 1, "color": "rgba(128, 128, 128, 0.6)"},
    "group": {"width": 22, "color": "rgba(128, 128, 128, 0.22)"},
    "attained": {"width": 2, "color": "#ff7f0e", "shape": "hv"},
}
JOINING = ("steps", "curve", "group")
"""Lines through points that are drawn by themselves, and say what they are."""
LEGEND_ABOVE, LEGEND_BELOW = ({"y": 1.02, "yanchor": "bottom"}, {"y": -0.28, "yanchor": "top"})
ERRORS: dict[str, Any] = {"type": "data", "color": "rgba(128, 128, 128, 0.45)", "thickness": 1, "width": 0}
AREA = "rgba(255, 127, 14, 0.2)"
GRID = "rgba(128, 128, 128, 0.25)"


@cache
def script() -> str:
    """Plotly's JavaScript for a page, compressed with gzip to a third, in base64."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def embed(chart: Chart | Parallel) -> list[str]:
    """A chart as HTML: for each panel an empty element, and the figure as JSON that the page's script draws in it."""
    if isinstance(chart, Parallel):
        return [_html(_parallel(chart), f"{chart.name}-0", HEIGHTS[0])]
    return [
        _html(_figure(chart, panel), f"{chart.name}-{place}", _height(chart, panel))
        for place, panel in enumerate(chart.panels)
    ]


def _html(figure: go.Figure, element: str, height: int) -> str:
    written = figure.to_json().replace("</", "<\\/")  # which would end the script
    return (
        f'<div><div id="{element}" class="plotly-graph-div" style="height: {height}px"></div>'
        f'<script type="application/json" data-plot="{element}">{written}</script></div>'
    )


def _height(chart: Chart, panel: Panel) -> int:
    bars = {label for mark in panel.marks if isinstance(mark, Bars) for label in mark.labels}
    named = sum(bool(mark.name) for mark in panel.marks) if panel.title else 0
    return 90 + 36 * len(bars) if bars else HEIGHTS[len(chart.panels) > 1] + 12 * named


def _figure(chart: Chart, panel: Panel) -> go.Figure:
    figure = go.Figure()
    for mark in panel.marks:
        match mark:
            case Points():
                figure.add_trace(_points(chart, mark, label_sides(panel, mark)))
            case Line():
                figure.add_trace(_line(mark))
            case Area():
                figure.add_trace(_area(mark))
            case Bars():
                text = [_written(panel.x, length) for length in mark.lengths]
                bars = go.Bar(x=mark.lengths, y=mark.labels, name=mark.name, orientation="h", hovertext=text)
                figure.add_trace(bars.update(hoverinfo="y+text"))
    bars_drawn = any(isinstance(mark, Bars) for mark in panel.marks)
    figure.update_layout(
        template="none",
        barmode="stack",
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        margin={"l": 10, "r": 10, "t": 34 if panel.title else 10, "b": 110 if _is_coloured(panel) else 10},
        title={"text": panel.title, "font": {"size": 13}, "x": 0, "xref": "paper", "xanchor": "left"},
        font={"size": 12},
        legend={"orientation": "h", "x": 0, **(LEGEND_BELOW if panel.title else LEGEND_ABOVE)},
        showlegend=any(mark.name for mark in panel.marks),
        hoverlabel={"align": "left"},
        xaxis=_axis(panel.x, _places(panel)),
        yaxis=_axis(panel.y, _heights(panel)) | ({"autorange": "reversed"} if bars_drawn else {}),
    )
    if not panel.marks:
        _say_missing(figure, panel.missing)
    return figure


def _say_missing(figure: go.Figure, text: str) -> None:
    figure.add_annotation(text=text, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)


def _parallel(chart: Parallel) -> go.Figure:
    figure = go.Figure(layout={"template": "none", "paper_bgcolor": "rgba(0, 0, 0, 0)", "font": {"size": 12}})
    figure.update_layout(margin={"l": 60, "r": 60, "t": 70, "b": 20})
    if not chart.ids:
        _say_missing(figure, chart.missing)
        return figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    axes = [
        {
            "label": axis.label,
            "values": axis.places,
            "range": [0, 1],
            "tickvals": [place for place, _ in axis.ticks],
            "ticktext": [text for _, text in axis.ticks],
        }
        for axis in chart.axes
    ]
    # Both ends of the colour scale are left out: one is too pale on a light page, the other on a dark one.
    line = {"color": chart.axes[chart.colour].places, "colorscale": "Viridis", "cmin": -0.2, "cmax": 1.2}
    return figure.add_trace(go.Parcoords(dimensions=axes, line=line, ids=chart.ids, labelangle=-20))


def _points(chart: Chart, mark: Points, sides: Sequence[Side]) -> go.Scatter:
    marker = dict(POINTS[mark.style])
    if mark.colour and chart.colour is not None:
        marker |= _colours(chart, mark.colour)
    if mark.hue is not None:
        marker["color"] = _palette(mark.hue)
    x_bars, y_bars = error_bars(mark)
    return go.Scatter(
        x=mark.x,
        y=mark.y,
        name=mark.name,
        mode="markers+text" if mark.labels else "markers",
        text=mark.labels or None,
        textposition=[" ".join(side) for side in sides] or None,
        marker=marker,
        error_x=_errors(x_bars),
        error_y=_errors(y_bars),
        hovertext=mark.details or mark.labels or None,
        hoverinfo="text" if mark.details or mark.labels else "x+y",
        hovertemplate="%{hovertext}<br>%{customdata}<extra></extra>" if mark.commands else None,
        customdata=mark.commands or None,
        showlegend=bool(mark.name),
    )


def _errors(bars: Sequence[tuple[float, float]]) -> dict[str, Any]:
    below, above = zip(*bars, strict=True) if bars else ((), ())
    return {"array": above, "arrayminus": below, "visible": bool(bars)} | ERRORS


def _colours(chart: Chart, values: Sequence[float]) -> dict[str, Any]:
    """Plotly has no logarithmic colour scale: colours are those of the logarithm, and ticks are written as values."""
    assert chart.colour is not None
    every = [v for panel in chart.panels for mark in panel.marks if isinstance(mark, Points) for v in mark.colour]
    low, high = math.log10(min(every)), math.log10(max(every))
    ticks = [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)] if high > low else [low]
    return {
        "color": [math.log10(value) for value in values],
        "colorscale": "Viridis",
        "cmin": low,
        "cmax": max(high, low + 1e-3),
        "showscale": True,
        "colorbar": {
            "title": {"text": chart.colour.label, "side": "bottom"},
            "tickvals": ticks,
            "ticktext": [_written(chart.colour, 10**tick) for tick in ticks],
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "thickness": 10,
            "outlinewidth": 0,
        },
    }


def _line(mark: Line) -> go.Scatter:
    return go.Scatter(
        x=mark.x,
        y=mark.y,
        name=mark.name,
        mode="lines+markers" if mark.style in ("plain", "stairs") else "lines",
        marker={"size": 4},
        line=LINES[mark.style] | ({} if mark.hue is None else {"color": _palette(mark.hue)}),
        hovertext=mark.details or None,
        hoverinfo="skip" if mark.style in JOINING else "text+x+y" if mark.details else "x+y",
        showlegend=bool(mark.name),
    )


def _palette(hue: int) -> str:
    return str(qualitative.D3[hue % len(qualitative.D3)])


def _area(mark: Area) -> go.Scatter:
    hidden = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    return go.Scatter(
        x=mark.x, y=mark.y, name=mark.name, fill="toself", fillcolor=AREA, showlegend=bool(mark.name), **hidden
    )


def _is_coloured(panel: Panel) -> bool:
    return any(isinstance(mark, Points) and mark.colour for mark in panel.marks)


def _places(panel: Panel) -> list[float]:
    """All x values of the panel; for stacked bars, their ends."""
    stacked: dict[str, float] = {}
    places: list[float] = []
    for mark in panel.marks:
        if isinstance(mark, Bars):
            for label, length in zip(mark.labels, mark.lengths, strict=True):
                stacked[label] = stacked.get(label, 0.0) + length
        else:
            places += mark.x
    return [*stacked.values(), *places]


def _heights(panel: Panel) -> list[float]:
    """All y values of a panel with a logarithmic y axis; other axes are left to Plotly."""
    if not panel.y.log:
        return []
    return [float(height) for mark in panel.marks if not isinstance(mark, Bars) for height in mark.y]


def _axis(axis: Axis, places: Sequence[float]) -> dict[str, Any]:
    written: dict[str, Any] = {
        "title": {"text": axis.label},
        "automargin": True,
        "gridcolor": GRID,
        "zeroline": False,
        "type": "log" if axis.log else "-",
    }
    ticks: list[float] = []
    if axis.log and places:
        ticks = _log_ticks(min(places), max(places))
    elif axis.unit == "seconds":
        ticks = [max(places, default=0.0) * share for share in (0, 0.5, 1)]
    elif axis.unit == "fraction":
        written["tickformat"] = ".0%"
    elif axis.unit not in ("number", "pixels"):
        written["exponentformat"] = "SI"
    return written | ({"tickvals": ticks, "ticktext": [_written(axis, tick) for tick in ticks]} if ticks else {})


def _log_ticks(low: float, high: float) -> list[float]:
    """Ticks at 1, 2 and 5 times powers of ten; beyond 3 decades at powers of ten; below half a decade at even steps."""
    if low < high < 3 * low:
        power = 10.0 ** math.floor(math.log10((high - low) / 3))
        step = power * max(digit for digit in (1, 2, 5) if digit * power <= (high - low) / 3)
        return [step * count for count in range(math.floor(low / step), math.ceil(high / step) + 1)]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if last - first <= 3 else (1,)
    return [digit * 10.0**power for power in range(first, last + 1) for digit in digits]


def _written(axis: Axis, value: float) -> str:
    return f"{value:.4g}" if axis.unit == "number" else format_quantity(axis.unit, value)

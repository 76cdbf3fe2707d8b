"""The figure of what trials reached after every epoch."""

import math
from collections.abc import Sequence
from typing import Literal

from cfamc_ray.figures.chart import Chart, Line, Panel
from cfamc_ray.figures.charts import COST, metric_axis
from cfamc_ray.metrics import find_metric, results
from cfamc_ray.store.records import TrialRecord

MOST_NAMED = 10
"""Trials of which each has a line, a colour and a name of its own."""


def curves_chart(records: Sequence[TrialRecord], members: Sequence[TrialRecord]) -> Chart:
    """The results after every epoch; trials on the front as lines of their own, all others faint.

    More than `MOST_NAMED` trials on the front are one line with gaps, as the others are: there would be no room for
    their names, nor colours.
    """
    front = {record.number for record in members}
    panels = []
    reported = {name for record in records for row in record.rows for name, value in row.items() if value is not None}
    for name in (name for name in results() if name in reported or find_metric(name).images):
        curves = {record.number: _curve(record, name) for record in records}
        curves = {number: curve for number, curve in curves.items() if curve.x}
        others = _joined("", [curve for number, curve in curves.items() if number not in front], "faint")
        ours = [curve for number, curve in curves.items() if number in front]
        lines = ours if len(front) <= MOST_NAMED else _joined("on the front", ours, "plain")
        panels.append(
            Panel(metric_axis(COST, {}), metric_axis(name, {}), [*others, *lines], missing="no epoch has ended yet")
        )
    return Chart("curves", "Learning curves", panels, columns=2)


def _curve(record: TrialRecord, name: str) -> Line:
    """A result of a trial over the crop passes, where it was measured."""
    rows = [row for row in record.rows if row.get(name) is not None and row.get("crop_passes") is not None]
    x, y = [float(row["crop_passes"]) for row in rows], [float(row[name]) for row in rows]
    return Line(f"trial {record.number}", x, y, details=f"trial {record.number} ({record.status})")


def _joined(name: str, curves: Sequence[Line], style: Literal["faint", "plain"]) -> list[Line]:
    """Curves as one line with gaps, since a thousand lines would be slow to draw; none without curves."""
    x = [place for curve in curves for place in (*curve.x, math.nan)]
    y = [place for curve in curves for place in (*curve.y, math.nan)]
    details = [str(curve.details) for curve in curves for _ in (*curve.x, math.nan)]
    return [Line(name, x, y, style, details)] if curves else []

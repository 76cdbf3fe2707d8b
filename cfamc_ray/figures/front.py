"""A front as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from cfamc_ray.study.front import Front
from cfamc_ray.study.records import TrialRecord

COST = "crop_passes"
"""Shown as colour."""


def draw_front(front: Front, *, title: str) -> Figure:
    """Finished trials in the plane of the first two objectives, coloured by cost; the front joined by steps.

    With one objective the other axis is the cost. The points of the front carry their trial's number.
    """
    x_name, y_name = ([*front.objectives, COST])[:2]
    figure = Figure(figsize=(7.2, 5.0), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    trials = [*front.dominated, *front.members]
    if not trials:
        axes.text(0.5, 0.5, "no trial has finished yet", ha="center", va="center", transform=axes.transAxes)
    else:
        _draw_points(axes, front, x_name, y_name)
    for axis, name in ((axes.xaxis, x_name), (axes.yaxis, y_name)):
        axis.set_label_text(_label(name, front.objectives))
        if name.endswith("accuracy"):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(title, loc="left", fontsize=11, wrap=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure under a temporary name first; the ending decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    figure.savefig(partial, format=path.suffix[1:] or "png")
    partial.replace(path)


def _draw_points(axes: Axes, front: Front, x_name: str, y_name: str) -> None:
    costs = [trial.value(COST) for trial in [*front.dominated, *front.members]]
    norm = LogNorm(min(costs), max(*costs, min(costs) * 1.01))

    def coordinates(trials: Sequence[TrialRecord]) -> tuple[list[float], list[float]]:
        return [trial.value(x_name) for trial in trials], [trial.value(y_name) for trial in trials]

    def scatter(trials: Sequence[TrialRecord], **style: Any) -> PathCollection:
        return axes.scatter(*coordinates(trials), c=[t.value(COST) for t in trials], cmap="viridis", norm=norm, **style)

    # From the best first objective on, the second stays attained until the next point takes over.
    if len(front.objectives) == 2:
        axes.plot(*coordinates(front.members), color="0.5", lw=1.2, drawstyle="steps-post", zorder=1, label="attained")
    scatter(front.dominated, s=36, alpha=0.45, linewidth=0, zorder=2, label="dominated")
    points = scatter(front.members, s=72, edgecolor="black", linewidth=0.8, zorder=3, label="on the front")
    for trial in front.members:
        place = (trial.value(x_name), trial.value(y_name))
        axes.annotate(f"{trial.number}", place, textcoords="offset points", xytext=(6, 6), fontsize=8)
    axes.legend(loc="best", frameon=False, fontsize=8)
    bar = axes.figure.colorbar(points, ax=axes, label="crop passes", format=EngFormatter(sep=""))
    bar.ax.yaxis.set_minor_formatter(EngFormatter(sep=""))


def _label(name: str, objectives: Mapping[str, str]) -> str:
    return name.replace("_", " ") + (f" ({objectives[name]})" if name in objectives else "")

"""What the figures show, and that both libraries draw all of it."""

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

from cfamc_ray.figures.chart import Area, Axis, Bars, Chart, Line, Panel, Points
from cfamc_ray.figures.charts import growth_chart, spending_chart
from cfamc_ray.figures.curves import MOST_NAMED, curves_chart
from cfamc_ray.figures.interactive import _log_ticks, embed
from cfamc_ray.figures.static import draw, save_chart
from cfamc_ray.front.growth import Growth, find_spending
from cfamc_ray.store.records import TrialRecord

ALL = Chart(
    "all",
    "Everything that there is",
    [
        Panel(
            Axis("views", log=True),
            Axis("accuracy", "fraction"),
            [
                Points("trials", [2, 4, 8], [0.1, 0.2, 0.3], colour=[10, 100, 1000], labels=["a", "b", "c"]),
                Line("trend", [2, 8], [0.1, 0.3]),
                Area("interval", [2, 8, 8, 2], [0.0, 0.2, 0.4, 0.2]),
            ],
            title="left",
        ),
        Panel(Axis("time", "seconds"), Axis(""), [Bars("one", ["a", "b"], [60, 30]), Bars("two", ["a", "b"], [5, 90])]),
        Panel(Axis("x"), Axis("y"), [], missing="nothing is known"),
    ],
    columns=2,
    colour=Axis("cost", "count"),
)


def test_every_mark_of_every_panel_is_drawn_into_a_file() -> None:
    figure = draw(ALL)
    left, right, empty, spare = figure.axes[:4]
    assert left.get_xscale() == "log"
    assert (len(left.collections), len(left.patches)) == (1, 1), "points and an area"
    assert len(left.lines) == 1
    assert [text.get_text() for text in empty.texts] == ["nothing is known"]
    assert not spare.axison
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    written = file.getvalue()
    assert b"<svg" in written
    assert right.get_xlabel() == "time"


def test_points_and_lines_of_one_hue_have_one_colour_in_both_libraries() -> None:
    marks = [mark for hue in (3, 1) for mark in (Points("p", [1], [1], hue=hue), Line("l", [1, 2], [1, 2], hue=hue))]
    chart = Chart("hues", "", [Panel(Axis("x"), Axis("y"), marks)])
    axes = draw(chart).axes[0]
    lines = [to_hex(str(line.get_color())) for line in axes.lines]
    points = [to_hex(np.asarray(mark.get_facecolor())[0]) for mark in axes.collections]
    assert points == lines == ["#d62728", "#ff7f0e"]
    (page,) = embed(chart)
    assert page.lower().count("#d62728") == 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.06, 2.1, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]),
        (3, 8000, [1, 10, 100, 1000, 10000]),
        (1.1, 2.6, [1, 1.5, 2, 2.5, 3]),
        (0.5, 1.0, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (7, 7, [1, 2, 5, 10, 20, 50]),
    ],
)
def test_ticks_of_a_page_s_log_axis_are_round_and_neither_crowded_nor_lone(
    low: float, high: float, ticks: list[float]
) -> None:
    assert _log_ticks(low, high) == pytest.approx(ticks)


def test_bars_of_one_label_are_stacked_and_the_first_is_on_top() -> None:
    axes = draw(ALL).axes[1]
    first, second = (container for container in axes.containers if isinstance(container, BarContainer))
    assert [(bar.get_x(), bar.get_width()) for bar in first] == [(0, 60), (0, 30)]
    assert [(bar.get_x(), bar.get_width()) for bar in second] == [(60, 5), (30, 90)]
    assert axes.yaxis_inverted()


def test_every_panel_is_an_element_of_its_own_with_its_values() -> None:
    panels = embed(ALL)
    assert [re.findall(r'id="([^"]+)"', panel)[0] for panel in panels] == ["all-0", "all-1", "all-2"]
    assert '"ticktext":["2","5","10"' in re.sub(r"\s", "", panels[0]).replace('"1",', "")
    assert "nothing is known" in panels[2]
    assert '"barmode":"stack"' in panels[1].replace(" ", "")


def test_growth_begins_with_nothing_and_holds_until_the_next_trial() -> None:
    passes, seconds = growth_chart(Growth((0, 1), (100, 300), (5.0, 9.0), (0.2, 0.3))).panels
    (line,) = passes.marks
    assert isinstance(line, Line)
    assert (line.x, line.y, line.style) == ([0, 100, 300], [0, 0.2, 0.3], "stairs")
    assert list(seconds.marks[0].x) == [0, 5, 9]  # type: ignore[union-attr]


def test_curves_leave_out_epochs_that_were_not_measured_and_name_the_front_alone() -> None:
    rows = [
        {"epoch": n, "crop_passes": 10 * n, "clean_accuracy": score, "robust_accuracy": None}
        for n, score in ((1, 0.1), (2, None), (3, 0.3))
    ]
    members = [TrialRecord(0, {}, rows, "finished")]
    clean, robust = curves_chart([*members, TrialRecord(1, {}, rows[:1], "stopped")], members).panels
    lines = {mark.name: mark for mark in clean.marks if isinstance(mark, Line)}
    assert (list(lines["trial 0"].x), list(lines["trial 0"].y)) == ([10, 30], [0.1, 0.3])
    assert (lines[""].style, lines[""].details[0]) == ("faint", "trial 1 (stopped)")
    assert (robust.marks, robust.missing) == ([], "no epoch has ended yet")


def test_trials_off_the_front_are_one_line_that_breaks_off_after_each() -> None:
    rows = [
        {"epoch": n, "crop_passes": 10 * n, "clean_accuracy": 0.1 * n, "robust_accuracy": None if n < 3 else 0.3}
        for n in (1, 2, 3)
    ]
    others = [TrialRecord(number, {}, rows[:number], "stopped") for number in (1, 2, 3)]
    chart = curves_chart(others, [])
    (clean,), (robust,) = (panel.marks for panel in chart.panels)
    assert isinstance(clean, Line)
    assert isinstance(robust, Line)
    nan = math.nan
    assert list(clean.x) == pytest.approx([10, nan, 10, 20, nan, 10, 20, 30, nan], nan_ok=True)
    assert list(clean.y) == pytest.approx([0.1, nan, 0.1, 0.2, nan, 0.1, 0.2, 0.3, nan], nan_ok=True)
    assert list(robust.x) == pytest.approx([30, nan], nan_ok=True)
    assert [details.split()[1] for details in clean.details] == list("112223333")
    (drawn,) = draw(chart).axes[0].lines
    assert np.isnan(drawn.get_ydata()).sum() == 3
    page = embed(chart)[0]
    assert "[10.0,null,10.0,20.0,null,10.0,20.0,30.0,null]" in page
    assert "trial 3 (stopped)" in page


def test_what_was_spent_is_a_bar_for_each_way_to_end() -> None:
    rows = [{"train_seconds": 60.0, "eval_seconds": 5.0, "overhead_seconds": 2.0, "crop_passes": 1, "flops": 1}]
    spent = find_spending([TrialRecord(0, {}, rows, "finished"), TrialRecord(1, {}, (), "failed")])
    (panel,) = spending_chart(spent).panels
    bars = [bar for bar in panel.marks if isinstance(bar, Bars)]
    assert {bar.name: list(bar.lengths) for bar in bars} == {"training": [60], "evaluation": [5], "overhead": [2]}
    assert all(bar.labels == ["finished (1)"] for bar in bars)


def test_what_no_trial_measured_has_no_bar() -> None:
    rows = [{"train_seconds": 60.0, "eval_seconds": 5.0, "crop_passes": 1, "flops": 1}]
    spent = find_spending([TrialRecord(0, {}, rows, "finished")])
    assert math.isnan(spent[0].overhead_seconds)
    assert [mark.name for mark in spending_chart(spent).panels[0].marks] == ["training", "evaluation"]


@pytest.mark.parametrize("values", [[100.0], [100.0, 100.0], [1.0, 1e9]], ids=["one", "equal", "far apart"])
def test_any_costs_have_colours(values: list[float]) -> None:
    points = Points("trials", [0.0] * len(values), [0.0] * len(values), colour=values)
    chart = Chart("coloured", "", [Panel(Axis("x"), Axis("y"), [points])], colour=Axis("cost", "count"))
    found = draw(chart).axes[0].collections[0]
    assert np.isfinite(np.asarray(found.norm(np.array(values)))).all()
    assert "Viridis" in embed(chart)[0] or "colorscale" in embed(chart)[0]


def test_of_many_trials_on_the_front_none_is_named() -> None:
    rows = [{"epoch": 1, "crop_passes": 10, "clean_accuracy": 0.1, "robust_accuracy": None}]
    for number in (MOST_NAMED, MOST_NAMED + 1):
        members = [TrialRecord(n, {}, rows, "finished") for n in range(number)]
        names = [mark.name for mark in curves_chart(members, members).panels[0].marks if isinstance(mark, Line)]
        assert names == ([f"trial {n}" for n in range(number)] if number == MOST_NAMED else ["on the front"])


@pytest.mark.parametrize("panels", [1, 2])
@pytest.mark.parametrize("title", ["Do $1 #crops beat $2?", r"Is $\eps$ worth its cost?", "Less than $5?"])
def test_dollars_in_a_question_are_no_formula(title: str, panels: int, tmp_path: Path) -> None:
    chart = Chart("asked", title, [Panel(Axis("x"), Axis("y"), [])] * panels)
    save_chart(chart, tmp_path)
    drawn = draw(chart)
    (text,) = [text for text in [drawn._suptitle, drawn.axes[0]._left_title] if text and text.get_text()]  # type: ignore[attr-defined]
    plain, is_math = text._preprocess_math(text.get_text())
    assert (plain, is_math) == (title, False)

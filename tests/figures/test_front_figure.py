import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_by_hand import curve
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures.chart import Area, Chart, Line, Points
from cfamc_ray.figures.charts import front_chart
from cfamc_ray.figures.interactive import _figure
from cfamc_ray.figures.static import draw as draw_chart
from cfamc_ray.figures.static import save_figure
from cfamc_ray.front.front import find_front
from cfamc_ray.intervals import wilson_interval
from cfamc_ray.store.records import TrialRecord

TWO = {"clean_accuracy": "maximize", "robust_accuracy": "maximize"}
SEVERAL = [(0.5, 0.5), (0.9, 0.1), (0.4, 0.4), (0.7, 0.3), (0.1, 0.1)]


def draw(scores: Sequence[tuple[float, ...]], objectives: dict[str, str] = TWO) -> Figure:
    config = StudyConfig.model_validate({"name": "drawn", "objectives": objectives})
    records = []
    for number, values in enumerate(scores):
        row: dict[str, Any] = {"done": True, "crop_passes": 100.0 * (number + 1)} | dict(
            zip(objectives, values, strict=True)
        )
        records.append(TrialRecord(number, {}, [row], "finished"))
    return draw_chart(front_chart(find_front(config, records), title="Is it worth it?"))


def axes_of(figure: Figure) -> Axes:
    return figure.axes[0]


def points(figure: Figure, label: str) -> list[tuple[float, float]]:
    """Where the points with a label of the legend are, sorted."""
    (found,) = [collection for collection in axes_of(figure).collections if collection.get_label() == label]
    return sorted((float(x), float(y)) for x, y in np.asarray(found.get_offsets()))


def numbers(figure: Figure) -> set[str]:
    return {text.get_text() for text in axes_of(figure).texts}


def test_members_and_dominated_trials_are_points_and_members_carry_their_numbers() -> None:
    figure = draw(SEVERAL)
    assert points(figure, "on the front") == [(0.5, 0.5), (0.7, 0.3), (0.9, 0.1)]
    assert points(figure, "dominated") == [(0.1, 0.1), (0.4, 0.4)]
    assert numbers(figure) == {"0", "1", "3"}


def test_what_is_attained_is_a_staircase_that_never_goes_beyond_the_front() -> None:
    (line,) = axes_of(draw(SEVERAL)).lines
    assert line.get_drawstyle() == "steps-post"
    assert np.asarray(line.get_xydata()).tolist() == [[0.9, 0.1], [0.7, 0.3], [0.5, 0.5]]


def test_axes_name_the_objectives_and_their_directions_in_per_cent() -> None:
    figure = draw(SEVERAL)
    axes = axes_of(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("clean accuracy (maximize)", "robust accuracy (maximize)")
    assert axes.get_title(loc="left") == "Is it worth it?"
    assert axes.xaxis.get_major_formatter()(0.25) == "25%"
    assert figure.axes[1].get_ylabel() == "crop passes"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["attained", "dominated", "on the front"]


def test_cost_is_colour_on_one_scale_for_all_trials() -> None:
    dominated, front = axes_of(draw(SEVERAL)).collections
    assert np.asarray(front.get_array()).tolist() == [200, 400, 100]
    assert np.asarray(dominated.get_array()).tolist() == [300, 500]
    assert dominated.norm is front.norm
    assert (front.norm.vmin, front.norm.vmax) == (100, 500)


def test_no_trial_leaves_a_sentence_and_labelled_axes() -> None:
    figure = draw([])
    assert numbers(figure) == {"no trial has finished yet"}
    assert axes_of(figure).get_xlabel() == "clean accuracy (maximize)"
    assert list(axes_of(figure).collections) == []


@pytest.mark.parametrize("scores", [[(0.5, 0.25)], [(0.5, 0.25)] * 3], ids=["one trial", "equal trials"])
def test_equal_points_are_all_on_the_front(scores: list[tuple[float, ...]], tmp_path: Path) -> None:
    figure = draw(scores)
    assert points(figure, "on the front") == scores
    assert points(figure, "dominated") == []
    save_figure(figure, tmp_path / "front.png")


def test_a_constant_objective_is_drawn(tmp_path: Path) -> None:
    figure = draw([(0.5, 0.2), (0.9, 0.2), (0.7, 0.2)])
    assert points(figure, "on the front") == [(0.9, 0.2)]
    assert len(points(figure, "dominated")) == 2
    save_figure(figure, tmp_path / "front.png")


def test_what_seeds_attain_is_a_median_within_an_area_whose_sides_are_the_outer_surfaces() -> None:
    config = StudyConfig.model_validate({"name": "drawn"})
    record = TrialRecord(0, {}, [{"done": True, "crop_passes": 1.0, **dict.fromkeys(TWO, 0.9)}], "finished")
    rows = [(0.2, 0.4, 0.8), (0.2, 0.8, 0.4), (0.5, 0.6, 0.3), (0.8, 0.2, 0.5), (0.8, 0.5, 0.2)]
    attained = [{"attained_by": level, "clean_accuracy": x, "robust_accuracy": y} for level, x, y in rows]
    marks = front_chart(find_front(config, [record]), title="", attained=attained).panels[0].marks
    (area,) = (mark for mark in marks if isinstance(mark, Area))
    line = marks[-1]
    assert isinstance(line, Line)
    assert (line.name, list(line.x), list(line.y)) == ("by 50%", [0.6], [0.3])
    few = [(0.8, 0.2), (0.8, 0.4), (0.4, 0.4), (0.4, 0.8), (0.2, 0.8)]
    most = [(0.5, 0.2), (0.5, 0.2), (0.2, 0.2), (0.2, 0.5), (0.2, 0.5)]
    assert list(zip(area.x, area.y, strict=True)) == [*few, *most[::-1]]


def test_of_three_objectives_the_first_two_are_the_plane() -> None:
    figure = draw([(0.5, 0.5, 10), (0.4, 0.4, 1), (0.3, 0.3, 20)], TWO | {"flops": "minimize"})
    assert points(figure, "on the front") == [(0.4, 0.4), (0.5, 0.5)]
    assert points(figure, "dominated") == [(0.3, 0.3)]
    assert axes_of(figure).get_ylabel() == "robust accuracy (maximize)"


def test_of_three_objectives_no_step_leads_back() -> None:
    figure = draw([(0.9, 0.1, 3), (0.8, 0.05, 2), (0.7, 0.3, 1)], TWO | {"flops": "minimize"})
    heights = [y for line in axes_of(figure).lines for _, y in np.asarray(line.get_xydata())]
    assert heights == sorted(heights)


def test_one_objective_is_drawn_over_its_cost() -> None:
    figure = draw([(0.5,), (0.9,)], {"clean_accuracy": "maximize"})
    assert points(figure, "on the front") == [(0.9, 200)]
    assert points(figure, "dominated") == [(0.5, 100)]
    assert axes_of(figure).get_ylabel() == "crop passes"


def test_a_minimised_objective_says_so_and_the_front_leans_towards_less() -> None:
    objectives = {"flops": "minimize", "clean_accuracy": "maximize"}
    figure = draw([(1e12, 0.9), (1e10, 0.5), (1e11, 0.4)], objectives)
    assert points(figure, "on the front") == [(1e10, 0.5), (1e12, 0.9)]
    assert axes_of(figure).get_xlabel() == "FLOPs (minimize)"
    (line,) = axes_of(figure).lines
    assert np.asarray(line.get_xdata()).tolist() == [1e10, 1e12]


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_written_whole_in_the_format_of_its_ending(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / "new" / "folder" / f"front.{ending}"
    save_figure(draw(SEVERAL), path)
    assert path.read_bytes().startswith(start)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_figure_that_cannot_be_written_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "front.xyz"
    path.write_text("old")
    with pytest.raises(ValueError, match="xyz"):
        save_figure(draw([]), path)
    assert [found.name for found in tmp_path.iterdir()] == ["front.xyz"]
    assert path.read_text() == "old"


def test_a_name_without_an_ending_is_written_under_that_name(tmp_path: Path) -> None:
    save_figure(draw([]), tmp_path / "front")
    assert [found.name for found in tmp_path.iterdir()] == ["front"]


IMAGES: dict[str, Any] = {"validation_images": 400, "attacked_images": 100}


def of_curves(objectives: dict[str, str] = TWO, **images: Any) -> Chart:
    config = StudyConfig.model_validate({"name": "drawn", "objectives": objectives})
    trials = [
        curve(0, (0.01, 0.9, 0.1), (0.1, 0.8, 0.3), (1.0, 0.5, 0.2), **images),
        curve(1, (0.01, 0.7, 0.2), (0.1, 0.6, 0.4), (1.0, 0.5, 0.5), **images),
    ]
    return front_chart(find_front(config, trials), title="")


def test_a_line_joins_the_operating_points_of_each_trial_in_the_order_of_their_strengths() -> None:
    (line,) = (mark for mark in of_curves().panels[0].marks if isinstance(mark, Line) and mark.style == "curve")
    nan = math.nan
    assert list(line.x) == pytest.approx([0.9, 0.8, 0.5, nan, 0.7, 0.6, 0.5, nan], nan_ok=True)
    assert list(line.y) == pytest.approx([0.1, 0.3, 0.2, nan, 0.2, 0.4, 0.5, nan], nan_ok=True)
    drawn = [line for line in axes_of(draw_chart(of_curves())).lines if line.get_label() == line_name(of_curves())]
    assert len(drawn) == 1
    assert all(drawn[0].get_zorder() < mark.get_zorder() for mark in axes_of(draw_chart(of_curves())).collections)


def line_name(chart: Chart) -> str:
    return next(mark.name for mark in chart.panels[0].marks if isinstance(mark, Line) and mark.style == "curve")


def test_of_neighbours_of_one_trial_the_first_carries_its_number_and_all_say_their_strength() -> None:
    front = of_curves().panels[0].marks[-1]
    assert isinstance(front, Points)
    assert list(front.labels) == ["0", "", "1", ""]
    assert [text.split("<br>")[0] for text in front.details] == [
        "trial 0 at L2 0.01",
        "trial 0 at L2 0.1",
        "trial 1 at L2 0.1",
        "trial 1 at L2 1",
    ]


def test_points_on_the_front_have_error_bars_in_both_libraries() -> None:
    chart = of_curves(**IMAGES)
    front = chart.panels[0].marks[-1]
    assert isinstance(front, Points)
    assert list(front.x_intervals) == [wilson_interval(round(400 * x), 400) for x in front.x]
    assert list(front.y_intervals) == [wilson_interval(round(100 * y), 100) for y in front.y]
    ends = [segment for bars in bars_of(draw_chart(chart)) for segment in bars.get_segments()]
    across, up = ends[:4], ends[4:]
    assert [(low[0], high[0]) for low, high in across] == [pytest.approx(ends) for ends in front.x_intervals]
    assert [(low[1], high[1]) for low, high in up] == [pytest.approx(ends) for ends in front.y_intervals]
    bars = _figure(chart, chart.panels[0]).data[-1].error_y
    around = list(zip(front.y, bars.arrayminus, bars.array, strict=True))
    assert [(y - below, y + above) for y, below, above in around] == [pytest.approx(ends) for ends in front.y_intervals]
    assert "robust accuracy 10.0% (5.5% – 17.4%)" in front.details[0]


def bars_of(figure: Figure) -> list[LineCollection]:
    return [found for found in axes_of(figure).collections if isinstance(found, LineCollection)]


def test_an_objective_without_an_interval_has_no_bar() -> None:
    front = of_curves({"clean_accuracy": "maximize", "flops": "minimize"}, **IMAGES).panels[0].marks[-1]
    assert isinstance(front, Points)
    assert (bool(front.x_intervals), bool(front.y_intervals)) == (True, False)
    assert bars_of(draw_chart(of_curves())) == [], "the rows do not tell the numbers of images"


def test_points_that_noise_cannot_tell_apart_are_joined_and_others_are_not() -> None:
    trials = [curve(n, (0.1, clean, robust)) for n, (clean, robust) in enumerate([(0.9, 0.1), (0.8, 0.2), (0.3, 0.5)])]
    front = find_front(StudyConfig(name="drawn"), trials)
    first, second, third = front.members
    chart = front_chart(front, title="", groups=[[first, second], [third]])
    (joined,) = [mark for mark in chart.panels[0].marks if isinstance(mark, Line) and mark.style == "group"]
    assert joined.x[:2] == [0.9, 0.8]
    assert joined.y[:2] == [0.1, 0.2]
    assert len(joined.x) == 3, "the gap after the only group"
    alone = front_chart(front, title="", groups=[[first], [second], [third]])
    assert not any(isinstance(mark, Line) and mark.style == "group" for mark in alone.panels[0].marks)

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures.chart import Area, Line
from cfamc_ray.figures.charts import front_chart
from cfamc_ray.figures.static import draw as draw_chart
from cfamc_ray.figures.static import save_figure
from cfamc_ray.front.front import find_front
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

"""Parallel coordinates: places, ticks, and that both libraries draw every line."""

from typing import Any

import numpy as np
import pytest
from made_by_hand import CONDITIONAL, row, study
from matplotlib.figure import Figure

from cfamc_ray.figures.chart import Parallel
from cfamc_ray.figures.interactive import embed
from cfamc_ray.figures.parallel import parallel_chart
from cfamc_ray.figures.static import draw
from cfamc_ray.front.scales import find_scales
from cfamc_ray.store.records import TrialRecord

CONFIG = study(
    space={
        "crops.views": {"int": [2, 32], "log": True},
        "perturbation.epsilon": {"float": ["2/255", "10/255"]},
        "encoder.norm": {"choice": ["batch", "group"]},
        "pretraining.epochs": 4,
    }
)


def trial(number: int, views: int | None, epsilon: float, norm: str, **metrics: float) -> TrialRecord:
    point = {"crops.views": views, "perturbation.epsilon": epsilon, "encoder.norm": norm, "pretraining.epochs": 4}
    known = {key: value for key, value in point.items() if value is not None}
    return TrialRecord(number, known, [row(1, done=True, **metrics)], "finished")


def chart(trials: list[TrialRecord]) -> Parallel:
    return parallel_chart(find_scales(CONFIG, trials), [t.trial_id for t in trials], headline="robust_accuracy")


FEW = [
    trial(0, 2, 2 / 255, "batch", clean_accuracy=0.4, robust_accuracy=0.1),
    trial(1, 8, 6 / 255, "group", clean_accuracy=0.5, robust_accuracy=0.3),
    trial(2, 32, 10 / 255, "group", clean_accuracy=0.5, robust_accuracy=0.2),
]


def test_each_value_lies_at_its_share_of_its_scale() -> None:
    made = chart(FEW)
    places = {axis.label: axis.places for axis in made.axes}
    assert list(places) == ["views", "epsilon", "norm", "clean accuracy", "robust accuracy", "crop passes"]
    assert places["views"] == pytest.approx([0, 0.5, 1]), "8 is the geometric mean of 2 and 32"
    assert places["epsilon"] == pytest.approx([0, 0.5, 1])
    assert places["norm"] == [0.25, 0.75, 0.75]
    assert places["robust accuracy"] == pytest.approx([0, 1, 0.5])
    assert places["crop passes"] == [0.5] * 3, "the same for all"
    assert made.axes[made.colour].label == "robust accuracy"
    assert made.axes[0].ticks == [(0, "2"), (pytest.approx(0.5), "8"), (1, "32")]


def test_many_values_have_five_ticks_that_tell_their_own_places() -> None:
    made = chart([trial(n, 2 + n, (2 + n / 2) / 255, "batch", clean_accuracy=0.01 * n) for n in range(12)])
    views, epsilon, *_ = made.axes
    assert [text for _, text in views.ticks] == ["2", "4", "8", "16", "32"]
    assert [place for place, _ in views.ticks] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [text for _, text in epsilon.ticks] == ["2/255", "4/255", "6/255", "8/255", "10/255"]


def test_a_key_that_a_trial_lacks_has_a_place_of_its_own() -> None:
    made = chart([*FEW, trial(3, None, 2 / 255, "batch", clean_accuracy=0.1, robust_accuracy=0.1)])
    views = made.axes[0]
    assert views.ticks[0] == (0, "–")
    assert views.places[3] == 0
    assert min(views.places[:3]) > 0.1


def test_both_libraries_draw_a_line_for_each_trial() -> None:
    made = chart(FEW)
    figure: Figure = draw(made)
    (axes,) = figure.axes
    crossing: list[Any] = [line for line in axes.lines if np.size(line.get_xdata()) == len(made.axes)]
    assert pytest.approx(np.array([a.places for a in made.axes])) == np.array([line.get_ydata() for line in crossing]).T
    (element,) = embed(made)
    assert '"type":"parcoords"' in element
    assert '"ids":["trial_00000","trial_00001","trial_00002"]' in element


def test_without_trials_it_says_so() -> None:
    made = chart([])
    assert [text.get_text() for text in draw(made).axes[0].texts] == ["no trial has finished yet"]
    assert "no trial has finished yet" in embed(made)[0]


def test_null_is_a_value_and_a_key_of_another_component_is_missing() -> None:
    config = study(space=CONDITIONAL, trial={"crops": {"views": 2}})
    trials = [
        TrialRecord(
            n,
            {"optimizer.trust_coefficient": trust, "loss.name": loss, "loss.temperature": 0.15},
            [row(1, done=True)],
            "finished",
        )
        for n, (trust, loss) in enumerate([(None, "emp_ssl"), (0.005, "nt_xent")])
    ]
    trust, _, temperature, *_ = parallel_chart(find_scales(config, trials), ["0", "1"], headline="robust_accuracy").axes
    assert trust.ticks == [(0.25, "null"), (0.75, "0.005")]
    assert trust.places == [0.25, 0.75]
    assert temperature.ticks[0] == (0, "–")
    assert temperature.places[0] == 0 < temperature.places[1]

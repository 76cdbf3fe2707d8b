"""An l2 radius is shown as one: in tables, figures, sentences and cards; published results in l∞ are not beside it."""

import math
from typing import Any

import pytest
from made_by_hand import row, study

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.figures.charts import describe, slices_chart
from cfamc_ray.figures.parallel import parallel_chart
from cfamc_ray.front.effects import find_effects
from cfamc_ray.front.front import find_front
from cfamc_ray.front.published import published_results
from cfamc_ray.front.scales import find_scales
from cfamc_ray.lifecycle.export import _card
from cfamc_ray.report.answer import _movers
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import trials_table
from cfamc_ray.terminal import epoch_line

KEY = "perturbation.epsilon"
L2: dict[str, Any] = {"perturbation": {"norm": "l2", "epsilon": 1}, "evaluation": {"norm": "l2", "epsilon": 0.5}}
SPACE: dict[str, Any] = {KEY: {"float": [0.25, 1.0]}}
RADII = (0.25, 0.5, 0.75, 0.875, 1.0)


def config(trial: dict[str, Any], space: dict[str, Any] | None = None) -> StudyConfig:
    return study(trial=trial, space=space or SPACE)


def records(**point: Any) -> list[TrialRecord]:
    """Robust accuracy grows with the radius."""
    return [
        TrialRecord(n, {KEY: radius, **point}, [row(1, done=True, robust_accuracy=0.4 * radius)], "finished")
        for n, radius in enumerate(RADII)
    ]


@pytest.mark.parametrize(
    ("trial", "cells", "axis", "shown"),
    [
        (L2, ["l₂ 0.25", "l₂ 0.5", "l₂ 0.75", "l₂ 0.875", "l₂ 1"], f"{KEY} (l₂)", 1),
        ({}, ["63.8/255", "128/255", "191/255", "223/255", "255/255"], f"{KEY} × 255", 255),
    ],
    ids=["l2", "linf"],
)
def test_tables_and_figures_tell_the_norm(trial: dict[str, Any], cells: list[str], axis: str, shown: float) -> None:
    made, trials = config(trial), records()
    assert [cell[-1] for cell in trials_table(made, trials).shown()] == cells
    front = find_front(made, trials)
    assert describe(front.members[-1], front).endswith(f"{KEY} {cells[front.members[-1].number]}")
    chart = parallel_chart(find_scales(made, trials), [r.trial_id for r in trials], headline="robust_accuracy")
    assert [label for _, label in chart.axes[0].ticks] == cells
    effects = find_effects(made, trials)
    panel = slices_chart(effects, made.objectives).panels[0]
    assert panel.x.label == axis
    assert list(panel.marks[0].x) == [shown * radius for radius in RADII]  # type: ignore[union-attr]
    sentence = next(each for each in _movers(made, effects) if "robust" in each)
    assert f"from {cells[0]} to {cells[-1]}" in sentence


def test_where_the_norm_is_searched_a_radius_is_a_number_and_the_norm_stands_beside_it() -> None:
    made = config({}, {"perturbation.norm": {"choice": ["linf", "l2"]}, **SPACE})
    trials = records(**{"perturbation.norm": "l2"})
    assert trials_table(made, trials).shown()[1][-2:] == ["l2", "0.5"]
    panel = slices_chart(find_effects(made, trials), made.objectives).panels[0]
    assert (panel.x.label, max(panel.marks[0].x)) == (KEY, 1.0)  # type: ignore[union-attr]


def test_an_epoch_and_the_card_of_a_study_name_the_ball_of_the_evaluation() -> None:
    metrics = row(1, loss=-1.0, crop_passes_per_second=10.0)
    assert "at l₂ 0.5 25.0%" in epoch_line(TrialConfig.model_validate(L2), metrics, detail="normal")
    assert "at 4/255 25.0%" in epoch_line(TrialConfig(), metrics, detail="normal")
    for trial, ball in ((L2, "with an l₂ radius of 0.5, on"), ({}, "with an l∞ radius of 4/255, on")):
        made = config(trial)
        assert ball in _card(made, find_front(made, records()), "5 trials", [made.trial], [])


def test_published_results_are_compared_in_linf_alone() -> None:
    assert published_results(config({}))
    assert math.isclose(config({}).trial.evaluation.epsilon, 4 / 255)
    evaluation = {"norm": "l2", "epsilon": 4 / 255}
    assert published_results(config({"evaluation": evaluation})) == []

"""Measures: the effective rank in closed form, and what a trial and a study make of a measure."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_trials import tiny_config, tiny_trial

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.evaluation.measures import effective_rank
from cfamc_ray.metrics import METRICS


@given(st.integers(1, 6), st.integers(6, 12), st.integers(0, 1000))
def test_features_of_equal_strength_in_r_directions_have_rank_r(rank: int, images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(images, images, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    assert effective_rank(3 * left[:, :rank] @ right[:rank]) == pytest.approx(rank)


def test_unequal_strengths_count_by_their_entropy() -> None:
    shares = [0.5, 0.25, 0.25]
    entropy = -sum(share * math.log(share) for share in shares)
    assert effective_rank(torch.diag(torch.tensor(shares, dtype=torch.float64))) == pytest.approx(math.exp(entropy))


def test_collapsed_features_have_no_or_one_rank() -> None:
    assert effective_rank(torch.zeros(5, 3)) == 0
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1)


def test_a_trial_reports_a_measure_where_it_is_asked_for_and_where_it_evaluates() -> None:
    changes = {"evaluation.measures": [{"name": "effective_rank", "features": "backbone"}]}
    trial = tiny_trial(tiny_config(**changes, **{"evaluation.every_epochs": 2}))
    first, second = (row.row() for row in trial)
    assert "effective_rank" not in first
    assert 1 <= second["effective_rank"] <= 10
    assert {"invariance", "coding_rate"} <= second.keys()
    assert not any(isinstance(value, dict) for value in second.values())  # each is a column of its own
    assert "effective_rank" not in tiny_trial().run_epoch().row()


def test_a_study_may_optimise_what_its_trials_measure() -> None:
    tree = {"name": "a", "objectives": {"effective_rank": "maximize"}}
    assert METRICS["effective_rank"].direction == "maximize"
    with pytest.raises(ValidationError, match=r"no trial measures effective_rank: write it under .*measures"):
        StudyConfig.model_validate(tree)
    config = StudyConfig.model_validate({**tree, "trial": {"evaluation": {"measures": ["effective_rank"]}}})
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config

"""Trials in the l2 norm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trials import state, tiny_config, tiny_trial
from torch import Tensor

from cfamc_ray.config.attacks import AttackConfig, MarginsConfig
from cfamc_ray.training.tensorboard import crop_grids

EPSILON = 1.5
L2: dict[str, Any] = {
    "perturbation.norm": "l2",
    "perturbation.epsilon": EPSILON,
    "evaluation.norm": "l2",
    "evaluation.epsilon": 0.5,
}
PGD: dict[str, Any] = {"perturbation.attack": "pgd", "perturbation.steps": 2, "pretraining.replays": 1}


def lengths(delta_VbCHW: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(delta_VbCHW.flatten(2), dim=-1)
    return found


@pytest.mark.parametrize("attack", [{}, PGD], ids=["free", "pgd"])
def test_the_perturbation_of_each_crop_fills_its_ball_and_never_leaves_it(attack: dict[str, Any]) -> None:
    trial = tiny_trial(tiny_config(**L2, **attack, **{"perturbation.step_ratio": 2.0}))
    for row in trial:
        delta_VbCHW = trial.trainer.delta_VbCHW
        assert lengths(delta_VbCHW).max() <= EPSILON * (1 + 1e-5)
        assert lengths(delta_VbCHW).min() > 0.5 * EPSILON
        assert 0 <= row.delta_border_share <= 1
    assert trial.trainer.delta_VbCHW.abs().max() < EPSILON / 2, "spread over the pixels"


def test_one_step_in_the_middle_of_the_box_puts_every_crop_at_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    once = {"data.pretrain_images": 4, "pretraining.replays": 1, "perturbation.step_ratio": 2.0}
    trial = tiny_trial(tiny_config(**L2, **once))
    grey = torch.full_like(trial.trainer.delta_VbCHW, 0.5)
    noise = 0.1 * torch.rand(grey.shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(trial.minibatches, "crops", lambda *_: grey + noise)
    assert trial.run_epoch().delta_border_share == 1
    torch.testing.assert_close(lengths(trial.trainer.delta_VbCHW), torch.full(grey.shape[:2], EPSILON))


def test_a_clean_view_stays_clean() -> None:
    trial = tiny_trial(tiny_config(**L2, **{"perturbation.clean_views": 1}))
    trial.run_epoch()
    clean_b, perturbed_b = lengths(trial.trainer.delta_VbCHW)
    assert clean_b.max() == 0 < perturbed_b.min()


def test_a_stopped_trial_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = tiny_config(**L2)
    whole, stopped, resumed = (tiny_trial(config) for _ in range(3))
    list(whole)
    stopped.run_epoch()
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.run_epoch()
    ours, theirs = state(whole), state(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_stage_in_l2_takes_the_perturbation_into_its_balls() -> None:
    """After a stage in l∞ whose perturbations are longer."""
    before = {"perturbation.norm": "linf", "perturbation.epsilon": 1.0, "perturbation.step_ratio": 1.0}
    trial = tiny_trial(tiny_config(**L2, stages=[{"epochs": 1, "values": before}]))
    trial.run_epoch()
    state_before = trial.trainer.state()
    assert lengths(state_before["delta"]).min() > EPSILON
    trial._build(trial.config.at_epoch(2), 1)
    trial.trainer.enter(state_before)
    after = trial.trainer.delta_VbCHW
    torch.testing.assert_close(lengths(after), torch.full(after.shape[:2], EPSILON))


def test_a_norm_alone_changes_what_is_trained() -> None:
    radius = {"perturbation.epsilon": 1.0}
    one, other = (tiny_trial(tiny_config(**radius, **{"perturbation.norm": norm})) for norm in ("linf", "l2"))
    assert one.run_epoch().loss != other.run_epoch().loss


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_evaluation_attacks_in_its_own_norm_and_not_in_that_of_training(
    monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    seen: list[dict[str, Any]] = []

    def ball(self: AttackConfig, epsilon: float, norm: Any) -> dict[str, Any]:
        seen.append({"epsilon": epsilon, "norm": norm})
        return seen[-1]

    monkeypatch.setattr(MarginsConfig, "ball", ball)
    other = {"linf": "l2", "l2": "linf"}[norm]
    evaluation = {"evaluation.norm": norm, "evaluation.epsilon": 0.3}
    tiny_trial(tiny_config(**evaluation, **{"perturbation.norm": other, "perturbation.epsilon": 0.2})).run_epoch()
    assert seen == [{"epsilon": 0.3, "norm": norm}]


def test_shown_perturbations_span_black_to_white_where_the_radius_is_no_limit_of_a_pixel() -> None:
    delta_VbCHW = torch.zeros(1, 1, 3, 2, 2)
    delta_VbCHW[..., 0, 0], delta_VbCHW[..., 1, 1] = 0.02, -0.01
    grids = crop_grids(torch.full_like(delta_VbCHW, 0.5), delta_VbCHW, epsilon=None)
    shown_CHW = grids["crops/perturbation, largest from black to white"]
    torch.testing.assert_close(shown_CHW[0, 1:3, 1:3], torch.tensor([[1.0, 0.5], [0.5, 0.25]]))

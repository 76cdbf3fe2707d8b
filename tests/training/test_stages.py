"""Trials whose first epochs are trained with other values of some keys."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trials import state, tiny_config, tiny_trial

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import training_flops
from cfamc_ray.training.trial import Trial

E = 4
STRONG: dict[str, Any] = {"pretraining.epochs": E, "pretraining.replays": 3, "perturbation.epsilon": 8 / 255}
WEAK: dict[str, Any] = {"pretraining.replays": 1, "perturbation.epsilon": 2 / 255}


def staged(epochs: int = 2, values: dict[str, Any] | None = None, **changes: Any) -> TrialConfig:
    """Weak epochs first, then strong ones."""
    return tiny_config(**STRONG, stages=[{"epochs": epochs, "values": values or WEAK}], **changes)


def assert_same(one: Trial, other: Trial) -> None:
    ours, theirs = state(one), state(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert [row.loss for row in one.rows] == [row.loss for row in other.rows]


def test_the_first_stage_is_bit_for_bit_the_trial_with_its_values() -> None:
    trial, weak = tiny_trial(staged()), tiny_trial(tiny_config(**{**STRONG, **WEAK}))
    for _ in range(2):
        assert trial.run_epoch().loss == weak.run_epoch().loss
    assert_same(trial, weak)


def test_each_stage_has_its_own_replays_and_radius() -> None:
    trial = tiny_trial(staged())
    seen = []
    for row in trial:
        stage = trial.trainer.config
        seen.append((stage.pretraining.replays, stage.perturbation.radii(1)[0], row.crop_passes))
        assert trial.trainer.delta_VbCHW.abs().max() <= stage.perturbation.radii(1)[0] * (1 + 1e-6)
    of_view = 2 * 12  # views, images of the complete minibatches
    assert seen == [
        (1, 2 / 255, 1 * of_view),
        (1, 2 / 255, 2 * of_view),
        (3, 8 / 255, 5 * of_view),
        (3, 8 / 255, 8 * of_view),
    ]


@pytest.mark.parametrize("schedule", ["updates", "minibatches", "constant"])
def test_the_rate_at_an_epoch_is_that_of_a_trial_with_the_stages_values_all_along(schedule: str) -> None:
    changes: dict[str, Any] = {"optimizer.schedule": schedule}
    rates = [row.learning_rate for row in tiny_trial(staged(**changes))]
    alone = {
        name: [row.learning_rate for row in tiny_trial(tiny_config(**{**STRONG, **values, **changes}))]
        for name, values in (("weak", WEAK), ("strong", {}))
    }
    assert rates == pytest.approx([*alone["weak"][:2], *alone["strong"][2:]], rel=1e-9)
    if schedule == "updates":
        assert rates == pytest.approx([0.3 * (1 + math.cos(math.pi * epoch / E)) / 2 for epoch in (1, 2, 3, 4)])


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
@pytest.mark.parametrize(
    "values",
    [WEAK, {"perturbation.attack": "none"}, {"crops.views": 3}, {"crops.views": 4, "perturbation.epsilon": 16 / 255}],
    ids=["replays and radius", "no attack", "one view more", "views and a larger radius"],
)
def test_a_trial_that_was_stopped_at_any_epoch_resumes_bit_for_bit(
    tmp_path: Path, stopped_after: int, values: dict[str, Any]
) -> None:
    config = staged(values=values)
    whole, stopped, resumed = (tiny_trial(config) for _ in range(3))
    list(whole)
    for _ in range(stopped_after):
        stopped.run_epoch()
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.epoch == stopped_after
    list(resumed)
    assert_same(whole, resumed)


def test_a_stage_of_the_same_values_as_the_first_resumes_with_its_own_place_in_the_schedule(tmp_path: Path) -> None:
    config = tiny_config(**STRONG, stages=[{"epochs": 1, "values": {}}, {"epochs": 1, "values": WEAK}])
    assert config.at_epoch(1) == config.at_epoch(3) != config.at_epoch(2)
    whole, stopped, resumed = (tiny_trial(config) for _ in range(3))
    list(whole)
    for _ in range(3):
        stopped.run_epoch()
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    list(resumed)
    assert_same(whole, resumed)


def test_a_checkpoint_of_the_trunk_continues_as_the_staged_trial(tmp_path: Path) -> None:
    trunk = tiny_trial(tiny_config(**{**STRONG, **WEAK}))
    trunk.run_epoch()
    trunk.run_epoch()
    trunk.save(tmp_path / "trunk.pt")
    whole, fork = tiny_trial(staged()), tiny_trial(staged())
    list(whole)
    fork.load(tmp_path / "trunk.pt")
    list(fork)
    assert_same(whole, fork)


def test_stages_of_equal_values_are_one_stage(tmp_path: Path) -> None:
    config = tiny_config(**STRONG, stages=[{"epochs": 1, "values": {}}, {"epochs": 2, "values": WEAK}])
    split = staged(2, WEAK)
    split = split.with_values({"stages": [{"epochs": 1, "values": WEAK}, {"epochs": 1, "values": WEAK}]})
    assert [epochs for epochs, _ in split.schedule] == [2, 2]
    assert split.fingerprint_until(3) == staged().fingerprint_until(3)
    assert [epochs for epochs, _ in config.schedule] == [1, 2, 1]
    first, again = tiny_trial(split), tiny_trial(split)
    first.run_epoch()
    first.save(tmp_path / "checkpoint.pt")
    again.load(tmp_path / "checkpoint.pt")
    whole = tiny_trial(staged())
    list(whole)
    list(again)
    assert_same(whole, again)


def test_a_new_view_begins_without_a_perturbation_and_an_old_one_keeps_its_own_within_the_radius() -> None:
    views: dict[str, Any] = {"crops.views": 3}
    trial = tiny_trial(staged(values={"crops.views": 2, "perturbation.epsilon": 16 / 255}, **views))
    trial.run_epoch()
    trial.run_epoch()
    before_VbCHW = trial.trainer.delta_VbCHW.clone()
    starts = []
    enter = type(trial.trainer).enter

    def entering(trainer: Any, carried: Any) -> None:
        enter(trainer, carried)
        starts.append(trainer.delta_VbCHW.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trial.trainer), "enter", entering)
        trial.run_epoch()
    (start_VbCHW,) = starts
    assert torch.equal(start_VbCHW[:2], before_VbCHW.clamp(-8 / 255, 8 / 255))
    assert before_VbCHW.abs().max() > 9 / 255
    assert not start_VbCHW[2].any()


def test_fingerprints_tell_what_was_trained_so_far() -> None:
    trunk = tiny_config(**{**STRONG, **WEAK})
    assert staged().fingerprint_until(1) == staged().fingerprint_until(2) == trunk.fingerprint_until(2)
    assert staged().fingerprint_until(3) != trunk.fingerprint_until(3)
    assert staged(1).fingerprint_until(2) != staged(2).fingerprint_until(2)
    assert trunk.fingerprint_until(3) == trunk.fingerprint
    assert staged().fingerprint != tiny_config(**STRONG).fingerprint
    written = staged(values={"pretraining.replays": 1, "perturbation.epsilon": "2/255"})
    assert written.fingerprint_until(4) == staged().fingerprint_until(4)


def test_costs_add_up_over_stages() -> None:
    weak, strong = tiny_config(**{**STRONG, **WEAK}), tiny_config(**STRONG)
    for count in (lambda c: c.crop_passes, lambda c: c.updates, training_flops):
        assert count(staged(1)) == (count(weak) + 3 * count(strong)) // 4
    assert training_flops(staged(), 3) == (2 * training_flops(weak) + training_flops(strong)) // 4
    pgd = staged(values={"perturbation.attack": "pgd", "perturbation.steps": 2, "pretraining.replays": 1})
    assert pgd.crop_passes == 2 * 24 * 3 + 2 * 24 * 3
    rows = list(tiny_trial(pgd))
    assert [row.crop_passes for row in rows] == [72, 144, 216, 288]
    assert rows[-1].flops == training_flops(pgd)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"epochs": 4, "values": WEAK}], "4 epochs come before the last stage, so pretraining.epochs must exceed 4"),
        ([{"epochs": 1, "values": {"encoder.width": 8}}], "encoder.width cannot change between stages"),
        ([{"epochs": 1, "values": {"crops.size": 32}}], "crops.size cannot change between stages"),
        ([{"epochs": 1, "values": {"loss.name": "nt_xent"}}], "loss.name cannot change between stages"),
        ([{"epochs": 1, "values": {"pretraining.replays": 0}}], "stages.0.values: pretraining.replays: Input"),
        ([{"epochs": 1, "values": {"crops.viws": 3}}], "stages.0.values: crops.viws: Extra inputs"),
        ([{"epochs": 1, "values": {"perturbation.clean_views": 2}}], "clean_views 2 leaves none of crops.views 2"),
        ([{"epochs": 0, "values": WEAK}], "greater than or equal to 1"),
    ],
)
def test_stages_that_cannot_be_trained_are_refused(stages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_config(**STRONG, stages=stages)

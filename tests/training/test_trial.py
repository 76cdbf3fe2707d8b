import dataclasses
import itertools
import math
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from tiny_trials import state, tiny_config, tiny_splits, tiny_trial
from torch import Tensor, nn
from torch._dynamo.exc import InternalTorchDynamoError

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import training_flops
from cfamc_ray.data.images import ImageSubset
from cfamc_ray.data.splits import Splits, load_splits
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.method.losses import nt_xent_loss
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.training import minibatches
from cfamc_ray.training import trainer as trainer_module
from cfamc_ray.training import trial as trial_module
from cfamc_ray.training.checkpoint import CheckpointError
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.precision import resolve_precision
from cfamc_ray.training.speedups import Speedups
from cfamc_ray.training.trainer import initial_encoder
from cfamc_ray.training.trial import OutOfTime, Trial, TrialFailed

MEASURED = ("train_seconds", "eval_seconds", "overhead_seconds", "peak_memory_bytes", "crop_passes_per_second")
"""Metrics of the machine, not of the trial."""


def without_measurements(rows: list[TrialMetrics]) -> list[dict[str, Any]]:
    return [{k: v for k, v in dataclasses.asdict(row).items() if k not in MEASURED} for row in rows]


def assert_same(first: Trial, second: Trial) -> None:
    assert without_measurements(first.rows) == without_measurements(second.rows)
    ours, theirs = state(first), state(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_trial_yields_one_row_after_each_epoch() -> None:
    trial = tiny_trial(tiny_config(**{"pretraining.epochs": 3}))
    assert [(row.epoch, row.done) for row in trial] == [(1, False), (2, False), (3, True)]
    assert trial.finished
    assert list(trial) == []


def test_equal_configs_give_equal_weights_and_metrics() -> None:
    first, second = tiny_trial(), tiny_trial()
    torch.manual_seed(1)
    list(first)
    torch.manual_seed(2)
    list(second)
    assert_same(first, second)


def test_another_seed_gives_other_initial_weights_and_another_result() -> None:
    first, second = tiny_trial(), tiny_trial(tiny_config(seed=1))
    assert not torch.equal(first.trainer.encoder.backbone.stem.weight, second.trainer.encoder.backbone.stem.weight)
    assert first.run_epoch().loss != second.run_epoch().loss


def test_trials_that_take_turns_in_one_process_do_not_disturb_each_other() -> None:
    alone, turns, other = tiny_trial(), tiny_trial(), tiny_trial(tiny_config(seed=1))
    list(alone)
    for _ in zip(turns, other, strict=True):
        pass
    assert_same(alone, turns)


def test_a_trial_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(tiny_trial())
    assert torch.equal(torch.get_rng_state(), before)


FREE = {"pretraining.replays": 2}
PGD = {"perturbation.attack": "pgd", "perturbation.steps": 2, "pretraining.replays": 1}


@pytest.mark.parametrize(
    "changes",
    [
        FREE,
        {**FREE, "perturbation.carry": False},
        {**FREE, "perturbation.project_first": False, "optimizer.schedule": "minibatches"},
        {**FREE, "optimizer.trust_coefficient": None, "optimizer.momentum": 0.0},
        {**FREE, "optimizer.name": "adamw", "optimizer.warm_up": 0.3},
        PGD,
        {**PGD, "perturbation.keep_attack_gradients": True, "perturbation.attack_in_train_mode": False},
        {"perturbation.attack": "none"},
    ],
    ids=["free", "no carry", "as published", "sgd", "adamw", "pgd", "pgd as published, eval mode", "none"],
)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_trial_that_was_stopped_and_resumed_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, changes: dict[str, Any], norm: str, precision: str
) -> None:
    config = tiny_config(**{"encoder.norm": norm, "pretraining.precision": precision, **changes})
    whole, stopped, resumed = (tiny_trial(config) for _ in range(3))
    list(whole)
    stopped.run_epoch()
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.epoch == 1
    list(resumed)
    assert_same(whole, resumed)


def test_initial_weights_follow_from_the_seed_and_are_each_trials_own() -> None:
    config = tiny_config()
    first, other = initial_encoder(config), initial_encoder(config.with_values({"seed": 1}))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    again, fresh = initial_encoder(config, autocast=torch.bfloat16), tiny_trial(config).trainer.encoder
    assert again.autocast == torch.bfloat16
    assert initial_encoder(config).autocast is None
    torch.testing.assert_close(again.state_dict(), fresh.state_dict(), rtol=0, atol=0)
    assert not torch.equal(again.backbone.stem.weight, other.backbone.stem.weight)
    assert again.backbone.stem.weight.any()


@pytest.mark.parametrize(
    "attack",
    [
        FREE,
        PGD,
        {**PGD, "perturbation.attack_in_train_mode": False},
        {**PGD, "perturbation.keep_attack_gradients": True},
    ],
    ids=["free", "pgd", "pgd, eval mode", "pgd, kept gradients"],
)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputed_activations_change_nothing(attack: dict[str, Any], norm: str, precision: str) -> None:
    chunks = {"crops.views": 5, "pretraining.views_at_once": 2, **attack}
    kept = tiny_trial(tiny_config(**{"encoder.norm": norm, "pretraining.precision": precision, **chunks}))
    again = tiny_trial(kept.config.with_values({"pretraining.activation_checkpointing": True}))
    list(kept)
    list(again)
    torch.testing.assert_close(state(again), state(kept), rtol=0, atol=0)
    assert [row.loss for row in again.rows] == [row.loss for row in kept.rows]
    assert again.rows[-1].flops > kept.rows[-1].flops


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_as_the_plain_one() -> None:
    plain = tiny_trial(tiny_config(**{"pretraining.precision": "float64", "pretraining.epochs": 1}))
    compiled = tiny_trial(plain.config.with_values({"pretraining.compile": True}))
    list(plain)
    list(compiled)
    torch.testing.assert_close(state(compiled), state(plain), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("keep", [False, True])
def test_a_compiled_attack_asks_for_no_gradients_of_the_weights(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network)
    changes = {**PGD, "perturbation.keep_attack_gradients": keep, "pretraining.precision": "float64"}
    plain = tiny_trial(tiny_config(**changes))
    compiled = tiny_trial(plain.config.with_values({"pretraining.compile": True}))
    asked: list[bool] = []
    compiled.trainer.encoder.register_forward_hook(
        lambda module, *_: asked.append(all(weight.requires_grad for weight in module.parameters()))
    )
    list(compiled)
    list(plain)
    # Two steps of the attack and the update, after a rehearsal of the same.
    assert asked == [keep, keep, True] * (1 + compiled.config.updates)
    torch.testing.assert_close(state(compiled), state(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compile", ["auto", True])
def test_where_auto_cannot_compile_a_trial_is_the_plain_one(
    compile: bool | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise InternalTorchDynamoError("no compiler")

    config = tiny_config(**{"pretraining.compile": compile})
    plain = tiny_trial(config)
    monkeypatch.setattr(torch, "compile", lambda work: fails)
    monkeypatch.setattr(trainer_module, "speedups", lambda *_, **__: Speedups(True, False, False, False))
    compiled = tiny_trial(config)
    if compile is True:
        with pytest.raises(InternalTorchDynamoError):
            compiled.run_epoch()
        return
    with pytest.warns(UserWarning, match="pretraining.compile: InternalTorchDynamoError; training is not compiled"):
        list(compiled)
    list(plain)
    assert_same(compiled, plain)


def test_of_several_compiled_workers_the_wrapper_is_compiled_that_adds_up_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[tuple[str, str]] = []

    def noting(name: str) -> Any:
        def wrap(module: nn.Module) -> nn.Module:
            done.append((name, type(module).__name__))
            return nn.Sequential(module)

        return wrap

    monkeypatch.setattr(torch, "compile", lambda work: noting("compile")(work) if isinstance(work, nn.Module) else work)
    monkeypatch.setattr(trainer_module, "data_parallel", noting("data_parallel"))
    tiny_trial(tiny_config(**{"pretraining.compile": True}), context=DistributedContext(world_size=2))
    # The encoder by itself is what attacks see.
    assert done == [
        ("compile", "SelfSupervisedEncoder"),
        ("data_parallel", "SelfSupervisedEncoder"),
        ("compile", "Sequential"),
    ]


def test_what_the_first_worker_says_does_not_wait_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny_trial()
    trial.context, trial._hosts = (
        DistributedContext(rank=1, world_size=2, device=torch.device("cuda")),
        cast(Any, "over the hosts"),
    )
    sent: list[tuple[torch.device, object]] = []

    def broadcast(tensor: Tensor, *, src: int, group: object) -> None:
        sent.append((tensor.device, group))
        tensor.fill_(True)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    assert trial.broadcast_from_rank0(False)
    assert sent == [(torch.device("cpu"), "over the hosts")]


@pytest.mark.parametrize(("free_bytes", "fit"), [(4 * 43 * 3 * 20 * 20, True), (4 * 43 * 3 * 20 * 20 - 1, False)])
def test_images_stay_on_a_gpu_that_has_four_times_their_memory_free(
    free_bytes: int, fit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, 2 * free_bytes))
    images = ImageSubset(tiny_splits().pretrain.images_NCHW, torch.arange(43))
    assert minibatches.fits(images, torch.device("cuda")) == fit
    assert minibatches.fits(images, torch.device("cpu"))


def test_images_that_do_not_fit_a_gpu_give_the_same_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_device = tiny_trial()
    monkeypatch.setattr(minibatches, "fits", lambda *_: False)
    monkeypatch.setattr(ImageSubset, "to", lambda *_: pytest.fail("all images were copied to the device"))
    gathered = tiny_trial()
    list(on_the_device)
    list(gathered)
    assert_same(gathered, on_the_device)


def test_a_checkpoint_of_a_fresh_trial_and_one_of_a_finished_trial_can_be_resumed(tmp_path: Path) -> None:
    trial, fresh, finished = tiny_trial(), tiny_trial(), tiny_trial()
    trial.save(tmp_path / "fresh.pt")
    list(trial)
    trial.save(tmp_path / "finished.pt")
    fresh.load(tmp_path / "fresh.pt")
    list(fresh)
    finished.load(tmp_path / "finished.pt")
    assert list(finished) == []
    assert_same(trial, fresh)
    assert_same(trial, finished)


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    tiny_trial().save(tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="another config"):
        tiny_trial(tiny_config(seed=1)).load(tmp_path / "checkpoint.pt")


def test_a_save_that_was_cut_off_leaves_the_last_checkpoint_and_does_not_hurt_the_next(tmp_path: Path) -> None:
    trial, resumed = tiny_trial(), tiny_trial()
    trial.save(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt.0.partial").write_bytes(b"half a checkpoint")
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.epoch == 0
    trial.run_epoch()
    trial.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.epoch == 1
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint.pt.0.partial"}


def test_a_saved_encoder_is_the_trials(tmp_path: Path) -> None:
    trial = tiny_trial()
    trial.run_epoch()
    trial.save_encoder(tmp_path / "encoder.safetensors")
    restored = load_encoder(tmp_path / "encoder.safetensors")
    pixels_NCHW = tiny_splits().validation.images_NCHW[:] / 255
    expected = trial.trainer.encoder.eval().features(pixels_NCHW)
    torch.testing.assert_close(restored.features(pixels_NCHW), expected)


DIVERGING = {"optimizer.lr": 1e30, "optimizer.trust_coefficient": None, "optimizer.momentum": 0.0}


def test_a_trial_that_diverges_fails_with_its_reason() -> None:
    with pytest.raises(TrialFailed, match="diverged: the loss is nan in epoch 1"):
        list(tiny_trial(tiny_config(**DIVERGING)))


def test_a_trial_that_diverges_in_its_last_update_fails_too() -> None:
    config = tiny_config(
        **DIVERGING, **{"pretraining.batch_images": 13, "pretraining.replays": 1, "pretraining.epochs": 1}
    )
    with pytest.raises(TrialFailed):
        list(tiny_trial(config))


def test_a_trial_beyond_its_time_limit_is_out_of_time() -> None:
    with pytest.raises(OutOfTime, match="reached in epoch 1 of 2"):
        tiny_trial(seconds=0).run_epoch()


def test_the_time_limit_counts_the_epochs_before_a_restart(tmp_path: Path) -> None:
    trial = tiny_trial()
    row = trial.run_epoch()
    trial.save(tmp_path / "checkpoint.pt")
    resumed = tiny_trial(seconds=row.train_seconds + row.eval_seconds)
    resumed.load(tmp_path / "checkpoint.pt")
    with pytest.raises(OutOfTime, match="reached in epoch 2 of 2"):
        resumed.run_epoch()


def test_a_generous_time_limit_changes_nothing() -> None:
    hurried, free = tiny_trial(seconds=3600), tiny_trial()
    list(hurried)
    list(free)
    assert_same(hurried, free)


@pytest.mark.parametrize(
    ("schedule", "replays", "last_rate"),
    [("updates", 2, 0.0), ("updates", 3, 0.0), ("minibatches", 2, 0.3), ("minibatches", 3, 0.0), ("constant", 2, 0.3)],
)
def test_the_schedule_ends_where_it_says(schedule: str, replays: int, last_rate: float) -> None:
    *_, last = tiny_trial(tiny_config(**{"optimizer.schedule": schedule, "pretraining.replays": replays}))
    assert last.learning_rate == pytest.approx(last_rate, abs=1e-15)


@pytest.mark.parametrize("changes", [FREE, PGD, {"perturbation.attack": "none"}], ids=["free", "pgd", "none"])
def test_costs_add_up_to_those_of_the_config(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    first, last = tiny_trial(config)
    assert (last.crop_passes, last.flops) == (config.crop_passes, training_flops(config))
    assert (2 * first.crop_passes, 2 * first.flops) == (last.crop_passes, last.flops)
    assert 0 < first.train_seconds < last.train_seconds
    assert 0 < first.eval_seconds < last.eval_seconds


def test_what_is_done_between_epochs_is_overhead(tmp_path: Path) -> None:
    trial = tiny_trial()
    began = time.perf_counter()
    first = trial.run_epoch()
    time.sleep(0.3)
    trial.save(tmp_path / "checkpoint.pt")
    last = trial.run_epoch()
    between = last.overhead_seconds - first.overhead_seconds
    assert 0.3 <= between <= time.perf_counter() - began - (last.train_seconds - first.train_seconds)
    resumed = tiny_trial()
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.run_epoch().overhead_seconds > first.overhead_seconds


def test_the_loss_is_made_of_the_terms_beside_it() -> None:
    row = tiny_trial().run_epoch()
    assert row.loss == pytest.approx(-200 * row.loss_terms["invariance"] - row.loss_terms["coding_rate"], rel=1e-5)


def test_the_loss_of_pgd_is_made_of_the_terms_beside_it() -> None:
    row = tiny_trial(tiny_config(**PGD)).run_epoch()
    assert row.loss == pytest.approx(-200 * row.loss_terms["invariance"] - row.loss_terms["coding_rate"], rel=1e-5)


def test_the_perturbation_grows_to_the_border_of_its_ball() -> None:
    row = tiny_trial(tiny_config(**{"perturbation.step_ratio": 2.0})).run_epoch()
    assert row.delta_border_share > 0.5
    assert 0 < row.delta_mean <= 8 / 255


def test_without_an_attack_nothing_is_perturbed() -> None:
    row = tiny_trial(tiny_config(**{"perturbation.attack": "none"})).run_epoch()
    assert (row.delta_mean, row.delta_border_share) == (0, 0)


def test_a_perturbation_that_is_not_carried_starts_each_minibatch_at_zero() -> None:
    changes = {"perturbation.step_ratio": 0.1, "pretraining.epochs": 1}
    fresh = tiny_trial(tiny_config(**changes, **{"perturbation.carry": False}))
    carried = tiny_trial(tiny_config(**changes))
    list(fresh)
    list(carried)
    two_steps = 2 * 0.1 * 8 / 255
    assert fresh.trainer.delta_VbCHW.abs().max() <= two_steps * (1 + 1e-6) < carried.trainer.delta_VbCHW.abs().max()


@pytest.mark.parametrize(("coefficient", "reported"), [(0.005, True), (None, False)])
def test_the_share_of_clipped_layers_is_reported_with_lars_alone(coefficient: float | None, reported: bool) -> None:
    row = tiny_trial(tiny_config(**{"optimizer.trust_coefficient": coefficient})).run_epoch()
    assert (row.clipped_share is not None) is reported


@pytest.mark.parametrize(("precision", "weights"), [("float64", torch.float64), ("bfloat16", torch.float32)])
def test_the_precision_is_reported_and_decides_the_type_of_the_weights(precision: str, weights: torch.dtype) -> None:
    trial = tiny_trial(tiny_config(**{"pretraining.precision": precision}))
    assert trial.run_epoch().precision == precision
    assert trial.trainer.encoder.backbone.stem.weight.dtype == trial.trainer.delta_VbCHW.dtype == weights


@pytest.mark.parametrize(("instructions", "autocast"), [("amx_bf16", torch.bfloat16), ("avx512_bf16", None)])
def test_a_cpu_computes_in_bfloat16_where_it_has_amx(
    instructions: str, autocast: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True}, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == (torch.float32, autocast)


def crops_of_all_minibatches(config: TrialConfig, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    seen: list[Tensor] = []
    trial = Trial(config, splits)
    update = trial.trainer.update

    def remember(crops_VbCHW: Tensor, labels_B: Tensor | None) -> Tensor:
        seen.append(crops_VbCHW)
        return update(crops_VbCHW, labels_B)

    monkeypatch.setattr(trial.trainer, "update", remember)
    list(trial)
    assert len(seen) == 2 * config.minibatches_per_epoch
    return seen


def test_every_minibatch_of_every_epoch_has_crops_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = tiny_splits()
    one_image = ImageSubset(splits.pretrain.images_NCHW, torch.zeros(13, dtype=torch.int64))
    seen = crops_of_all_minibatches(tiny_config(), dataclasses.replace(splits, pretrain=one_image), monkeypatch)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_every_epoch_has_an_order_of_its_own_in_which_no_image_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_images = {f"crops.{name}_probability": 0.0 for name in ("flip", "jitter", "grayscale", "blur", "solarize")}
    config = tiny_config(**whole_images, **{"crops.scale": (1.0, 1.0), "crops.ratio": (1.0, 1.0)})
    seen = crops_of_all_minibatches(config, tiny_splits(), monkeypatch)
    first, second = (torch.cat(seen[i : i + 3], dim=1)[0].flatten(1) for i in (0, 3))
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == len(second.unique(dim=0)) == 12


ACCURACIES = ("clean_accuracy", "robust_accuracy", "probe_accuracy")
NOT_TRAINING = (*MEASURED, *ACCURACIES, "operating_points", "validation_images", "attacked_images")


@pytest.mark.parametrize("images", [1, 3, 9])
def test_the_crops_that_are_shown_are_those_of_the_last_minibatch_also_after_a_restart(
    images: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = crops_of_all_minibatches(tiny_config(), tiny_splits(), monkeypatch)
    monkeypatch.undo()
    trial = tiny_trial()
    list(trial)
    crops_VbCHW, delta_VbCHW = trial.last_crops(images)
    assert crops_VbCHW.shape[1] == min(images, 4)
    assert torch.equal(crops_VbCHW, trained[-1][:, :images])
    assert torch.equal(delta_VbCHW, trial.trainer.delta_VbCHW[:, :images])
    trial.save(tmp_path / "checkpoint.pt")
    resumed = tiny_trial()
    resumed.load(tmp_path / "checkpoint.pt")
    assert torch.equal(resumed.last_crops(images)[0], crops_VbCHW)


def of_training(rows: list[TrialMetrics]) -> list[dict[str, Any]]:
    return [{k: v for k, v in dataclasses.asdict(row).items() if k not in NOT_TRAINING} for row in rows]


@pytest.mark.parametrize(
    ("epochs", "every", "due"), [(5, 1, [1, 2, 3, 4, 5]), (5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 9, [3])]
)
def test_accuracies_are_measured_where_due_and_after_the_last_epoch(epochs: int, every: int, due: list[int]) -> None:
    config = tiny_config(**{"pretraining.epochs": epochs, "evaluation.every_epochs": every})
    rows = list(tiny_trial(config))
    for name in ACCURACIES:
        assert [row.epoch for row in rows if not math.isnan(getattr(row, name))] == due
    counts = [(row.epoch in due) * 10 for row in rows]
    assert [row.validation_images for row in rows] == counts
    assert [row.attacked_images for row in rows] == [count // 2 for count in counts]


def test_a_row_has_every_operating_point_and_the_accuracies_of_the_balanced_one() -> None:
    strengths = (0.01, 0.1, 1.0)
    config = tiny_config(
        **{"evaluation.head.l2": strengths, "evaluation.interim_attacked_images": 3, "pretraining.epochs": 2}
    )
    first, last = tiny_trial(config)
    assert (first.attacked_images, last.attacked_images) == (3, 5)
    for row in (first, last):
        assert tuple(point["l2"] for point in row.operating_points) == strengths
        best = max(row.operating_points, key=lambda point: point["clean_accuracy"] + point["robust_accuracy"])
        assert {name: getattr(row, name) for name in ACCURACIES} == {name: best[name] for name in ACCURACIES}


@pytest.mark.parametrize("changes", [FREE, PGD], ids=["free", "pgd"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_training_is_the_same_bit_for_bit_whether_it_is_measured_or_not(changes: dict[str, Any], norm: str) -> None:
    common = {**changes, "encoder.norm": norm, "pretraining.epochs": 3}
    always, once, never = (
        tiny_trial(tiny_config(**common, **often))
        for often in ({}, {"evaluation.every_epochs": 3}, {"data.validation_images": 0})
    )
    for trial in (always, once, never):
        list(trial)
    for other in (once, never):
        assert of_training(always.rows) == of_training(other.rows)
        ours, theirs = state(always), state(other)
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for name in ACCURACIES:
        assert getattr(always.rows[-1], name) == getattr(once.rows[-1], name)


def test_without_validation_images_nothing_is_ever_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(trial_module, "search_scores", unreachable)
    rows = list(tiny_trial(tiny_config(**{"data.validation_images": 0})))
    assert [row.done for row in rows] == [False, True]
    assert all(math.isnan(getattr(row, name)) for row in rows for name in ACCURACIES)
    assert [(row.validation_images, row.attacked_images) for row in rows] == [(0, 0)] * 2


def test_a_trial_without_accuracies_can_be_resumed(tmp_path: Path) -> None:
    config = tiny_config(**{"data.validation_images": 0})
    whole, stopped, resumed = (tiny_trial(config) for _ in range(3))
    list(whole)
    stopped.run_epoch()
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    list(resumed)
    assert of_training(resumed.rows) == of_training(whole.rows)
    assert all(math.isnan(row.clean_accuracy) for row in resumed.rows)


@pytest.mark.parametrize("own_validation", [0, 5])
def test_a_transfer_is_judged_on_the_other_data_set_and_pretrained_on_its_own(
    tmp_path: Path, own_validation: int
) -> None:
    other = tmp_path / "other.npz"
    rng = np.random.default_rng(0)
    np.savez(
        other,
        x_train=rng.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8),
        y_train=np.arange(60) % 3,
        x_test=rng.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8),
        y_test=np.arange(6) % 3,
    )
    transfer = {
        "name": "npz",
        "path": str(other),
        "pretrain_images": 30,
        "probe_images": 30,
        "validation_images": 7,
    }
    config = tiny_config(
        **{
            "data.name": "digits",
            "data.image_size": 16,
            "data.validation_images": own_validation,
            "evaluation.transfer": transfer,
        }
    )
    own = tiny_config(**{"data.name": "digits", "data.image_size": 16, "data.validation_images": own_validation})
    assert config.judged_on.location == str(other)
    trial = Trial(config, load_splits(config.data, judged_on=config.judged_on))
    alone = Trial(own, load_splits(own.data))
    list(trial)
    list(alone)
    assert [(row.validation_images, row.attacked_images) for row in trial.rows] == [(7, 5)] * 2
    assert all(row.clean_accuracy * 7 == pytest.approx(round(row.clean_accuracy * 7)) for row in trial.rows)
    assert of_training(trial.rows) == of_training(alone.rows)


@pytest.mark.parametrize(("epochs", "batch"), [(2, 4), (1, 13), (3, 6)])
def test_each_minibatch_is_told_once(epochs: int, batch: int) -> None:
    config = tiny_config(**{"pretraining.epochs": epochs, "pretraining.batch_images": batch})
    told: list[None] = []
    trial = tiny_trial(config, on_minibatch=lambda: told.append(None))
    counts = [len(told) for _ in trial]
    assert counts == [13 // batch * epoch for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_the_initial_encoder_is_the_trials_before_its_first_update(seed: int, precision: str) -> None:
    config = tiny_config(seed=seed, **{"pretraining.precision": precision})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    initial = initial_encoder(config)
    assert torch.equal(torch.get_rng_state(), before)
    ours, theirs = initial.state_dict(), tiny_trial(config).trainer.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name].to(theirs[name].dtype), theirs[name])] == []
    assert initial.backbone.stem.weight.dtype == torch.float32
    assert not torch.equal(initial_encoder(tiny_config(seed=9)).backbone.stem.weight, initial.backbone.stem.weight)


class TestSimClr:
    CHANGES: ClassVar = {"loss.name": "nt_xent", "perturbation.clean_views": 1, "loss.temperature": 0.5}

    def test_a_clean_view_is_never_perturbed(self) -> None:
        trial = tiny_trial(tiny_config(**self.CHANGES))
        trial.run_epoch()
        clean_bCHW, perturbed_bCHW = trial.trainer.delta_VbCHW
        assert not clean_bCHW.any()
        assert perturbed_bCHW.abs().max() == pytest.approx(8 / 255)

    def test_the_loss_is_nt_xent_of_the_two_views(self) -> None:
        trial = tiny_trial(tiny_config(**self.CHANGES))
        z_VBD = torch.nn.functional.normalize(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
        assert trial.trainer.loss_of(z_VBD) == nt_xent_loss(z_VBD[0], z_VBD[1], temperature=0.5)

    @pytest.mark.parametrize("changes", [{"loss.name": "nt_xent", "crops.views": 3}, {"perturbation.clean_views": 2}])
    def test_views_that_do_not_fit_are_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"crops\.views"):
            tiny_config(**changes)

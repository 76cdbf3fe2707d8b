"""Updates as CUDA graphs; on the CPU a tape plays the graph, which does the same operations on the same memory."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tape import Tape, record_on_tape
from tiny_trials import state, tiny_config, tiny_trial

from cfamc_ray.method import cuda_graph
from cfamc_ray.method.phases import timed_phases
from cfamc_ray.training import trainer
from cfamc_ray.training.speedups import Speedups
from cfamc_ray.training.trial import Trial

FREE = {"pretraining.replays": 3}
PGD = {"perturbation.attack": "pgd", "perturbation.steps": 2, "pretraining.replays": 1}
CASES: dict[str, dict[str, Any]] = {
    "free": FREE,
    "free, no carry": {**FREE, "perturbation.carry": False},
    "free, SGD": {**FREE, "optimizer.trust_coefficient": None, "optimizer.lr": 1e-3},
    "free, no momentum": {**FREE, "optimizer.momentum": 0.0},
    "free, group norm": {**FREE, "encoder.norm": "group"},
    "free, recomputed": {**FREE, "pretraining.views_at_once": 1, "pretraining.activation_checkpointing": True},
    "no attack": {"perturbation.attack": "none", "pretraining.replays": 1},
    "pgd": PGD,
    "pgd, kept gradients": {**PGD, "perturbation.keep_attack_gradients": True},
    "pgd, attack in evaluation mode": {**PGD, "perturbation.attack_in_train_mode": False},
    "nt_xent": {**PGD, "loss.name": "nt_xent", "perturbation.attack_positive": "self", "perturbation.clean_views": 1},
}


def config(case: str) -> Any:
    return tiny_config(**{"pretraining.precision": "float64", **CASES[case]})


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    """A trial whose updates are captured."""

    def build(case: str = "free", record: Any = record_on_tape) -> Trial:
        monkeypatch.setattr(cuda_graph, "record", record)
        with monkeypatch.context() as patches:
            patches.setattr(trainer, "speedups", lambda *_, **__: Speedups(False, True, False, False))
            return tiny_trial(config(case))

    return build


def assert_alike(graphed: Trial, eager: Trial) -> None:
    torch.testing.assert_close(state(graphed), state(eager), rtol=1e-9, atol=1e-12)
    assert graphed.trainer.optimizer.clipped_share == eager.trainer.optimizer.clipped_share
    for ours, theirs in zip(graphed.rows, eager.rows, strict=True):
        for name in ("loss", *ours.loss_terms, "learning_rate", "clean_accuracy"):
            assert ours.row()[name] == pytest.approx(theirs.row()[name], rel=1e-9), name


@pytest.mark.parametrize("case", CASES)
def test_a_trial_of_captured_updates_is_the_eager_one(case: str, graphed: Callable[..., Trial]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured, eager = graphed(case), tiny_trial(config(case))
        list(captured)
    list(eager)
    assert_alike(captured, eager)


def test_after_its_capture_an_update_runs_no_python(graphed: Callable[..., Trial]) -> None:
    trial = graphed()
    trial.run_epoch()
    calls: list[None] = []
    trial.trainer.encoder.register_forward_hook(lambda *_: calls.append(None))
    trial.trainer.update(trial.minibatches.crops(trial.minibatches.order(1), 1, 0))
    assert not calls


def test_the_rehearsal_changes_nothing_and_is_no_training(graphed: Callable[..., Trial]) -> None:
    trial, before = graphed(), tiny_trial(config("free"))
    trial.trainer.rehearse(trial.minibatches.crops(trial.minibatches.order(0), 0, 0))
    for name, value in before.trainer.encoder.state_dict().items():
        assert torch.equal(trial.trainer.encoder.state_dict()[name], value), name
    assert not any(momentum.any() for momentum in trial.trainer.optimizer.state_tensors())
    assert not trial.trainer.delta_VbCHW.any()
    assert trial.trainer.optimizer.param_groups[0]["lr"] == before.trainer.optimizer.param_groups[0]["lr"]


def test_a_trial_goes_on_from_a_checkpoint_that_is_read_after_a_capture(
    graphed: Callable[..., Trial], tmp_path: Path
) -> None:
    whole, begun, resumed = tiny_trial(config("free")), tiny_trial(config("free")), graphed()
    list(whole)
    begun.run_epoch()
    begun.save(tmp_path / "checkpoint.pt")
    resumed.run_epoch()  # captures the momenta that loading replaces
    resumed.load(tmp_path / "checkpoint.pt")
    list(resumed)
    assert_alike(resumed, whole)


def without_the_optimizer(function: Callable[[], None]) -> Callable[[], None]:
    """A capture that loses the weights' step."""
    with Tape() as tape:
        function()
    tape.operations = [each for each in tape.operations if "sgd" not in str(each[0])]
    replay: Callable[[], None] = tape.replay
    return replay


def with_another_loss(function: Callable[[], None]) -> Callable[[], None]:
    """A capture whose replay sees other crops."""
    with Tape() as tape:
        function()

    def replay() -> None:
        assert update._buffers is not None
        update._buffers[0].zero_()
        tape.replay()

    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    (update,) = (cell for cell in cells if isinstance(cell, cuda_graph.GraphedUpdate))
    return replay


def refused(_: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nand more lines")


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (without_the_optimizer, "changes the weights differently"),
        (with_another_loss, "the graph's loss is"),
        (refused, "operation not permitted when stream is capturing; updates are launched one by one"),
    ],
)
def test_a_capture_that_fails_or_differs_is_told_and_the_trial_goes_on_eagerly(
    record: Any, says: str, graphed: Callable[..., Trial]
) -> None:
    captured, eager = graphed("free", record), tiny_trial(config("free"))
    with pytest.warns(UserWarning, match=says):
        list(captured)
    list(eager)
    assert_alike(captured, eager)


def test_phases_are_timed_eagerly(graphed: Callable[..., Trial]) -> None:
    trial = graphed()
    trial.run_epoch()
    with timed_phases(torch.device("cpu")) as seconds:
        trial.run_epoch()
    assert set(seconds) == {"crops", "forward", "loss", "backward", "optimizer", "perturbation"}

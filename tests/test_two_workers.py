"""Two worker processes on CPUs end where one worker does."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_trials import state, tiny_config, tiny_splits, tiny_trial
from torch.multiprocessing.spawn import spawn

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.training import recording
from cfamc_ray.training.recording import WorkersDisagreeError, run_recorded
from cfamc_ray.training.trial import Trial

pytestmark = pytest.mark.slow

SGD = {"optimizer.trust_coefficient": None, "optimizer.lr": 1e-3}
PGD = {"perturbation.attack": "pgd", "perturbation.steps": 2, "pretraining.replays": 1}
L2 = {"perturbation.norm": "l2", "perturbation.epsilon": 1.0, "evaluation.norm": "l2", "evaluation.epsilon": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "free, SGD": {"pretraining.replays": 3, **SGD},
    "free, LARS": {"pretraining.replays": 3},
    "free, no carry": {"pretraining.replays": 2, "perturbation.carry": False},
    "free, views one by one": {"pretraining.views_at_once": 1, **SGD},
    "free, views recomputed": {"pretraining.views_at_once": 1, "pretraining.activation_checkpointing": True, **SGD},
    "free, compiled": {"pretraining.compile": True, **SGD},
    "free, l2": {"pretraining.replays": 3, **L2},
    "free, l2, compiled": {"pretraining.compile": True, **L2, **SGD},
    "pgd": PGD,
    "pgd, compiled": {"pretraining.compile": True, **PGD, **SGD},
    "pgd, kept gradients": {**PGD, **SGD, "perturbation.keep_attack_gradients": True},
    "pgd, attack in evaluation mode": {**PGD, "perturbation.attack_in_train_mode": False},
}


TRACED = partial(torch.compile, backend="aot_eager")
"""torch.compile, but for the kernels that it would build."""


@pytest.fixture(autouse=True)
def _builds_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", TRACED)


def config_of(case: str) -> TrialConfig:
    return tiny_config(**{"encoder.norm": "group", "pretraining.precision": "float64", **CASES[case]})


def tiny_study() -> StudyConfig:
    trial = tiny_config(**{"pretraining.epochs": 2, "encoder.norm": "group"}).model_dump(exclude_unset=True)
    return StudyConfig.model_validate({"name": "apart", "trial": trial, "space": {}})


def work(rank: int, folder: Path, cases: list[str]) -> None:
    """What each of the two processes does: every case, with a checkpoint after both epochs."""
    torch.set_num_threads(1)
    torch.compile = TRACED
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for case in cases:
        trial = Trial(config_of(case), tiny_splits(), context=DistributedContext(rank=rank, world_size=2))
        for row in trial:
            trial.save(folder / f"{case} {row.epoch}.pt")
        torch.save([(row.clean_accuracy, row.robust_accuracy) for row in trial.rows], folder / f"{case} {rank}.scores")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folders() -> dict[bool, Path]:
    """What two workers wrote, once they have; compiled or not."""
    return {}


@pytest.fixture
def folder(case: str, folders: dict[bool, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints that two workers wrote."""
    compiled = "compiled" in case
    if compiled not in folders:
        folders[compiled] = tmp_path_factory.mktemp("workers")
        spawn(work, (folders[compiled], [each for each in CASES if ("compiled" in each) == compiled]), nprocs=2)
    return folders[compiled]


of_every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.long) if "compiled" in case else case for case in CASES]
)


def resumed(case: str, folder: Path, *, epoch: int) -> Trial:
    """One worker that has read a checkpoint of two."""
    trial = tiny_trial(config_of(case))
    trial.load(folder / f"{case} {epoch}.pt")
    return trial


def assert_close(actual: Trial, expected: Trial) -> None:
    torch.testing.assert_close(state(actual), state(expected), rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(actual.rows, expected.rows, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)
        assert (ours.clean_accuracy, ours.robust_accuracy) == (theirs.clean_accuracy, theirs.robust_accuracy)
        assert (ours.crop_passes, ours.flops) == (theirs.crop_passes, theirs.flops)


@of_every_case
def test_two_workers_end_with_the_weights_perturbations_and_losses_of_one(folder: Path, case: str) -> None:
    alone = tiny_trial(config_of(case))
    list(alone)
    assert_close(resumed(case, folder, epoch=2), alone)
    for rank in range(2):
        scores = torch.load(folder / f"{case} {rank}.scores")
        assert scores == [(row.clean_accuracy, row.robust_accuracy) for row in alone.rows]


@of_every_case
def test_one_worker_goes_on_from_a_checkpoint_of_two(folder: Path, case: str) -> None:
    trial = resumed(case, folder, epoch=1)
    trial.run_epoch()
    assert_close(trial, resumed(case, folder, epoch=2))


def resume_together(rank: int, folder: Path) -> None:
    """Two workers with batch norm, attacked in evaluation mode, train on after an epoch that was not evaluated."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    attack = {"attack": "pgd", "steps": 2, "attack_in_train_mode": False}
    config = tiny_config(
        **{f"perturbation.{key}": value for key, value in attack.items()},
        **{"pretraining.replays": 1, "evaluation.every_epochs": 9, "encoder.norm": "batch"},
    )
    context = DistributedContext(rank=rank, world_size=2)
    whole, again = (Trial(config, tiny_splits(), context=context) for _ in range(2))
    whole.run_epoch()
    whole.save(folder / "checkpoint.pt")
    dist.barrier()
    again.load(folder / "checkpoint.pt")
    losses = [trial.run_epoch().loss for trial in (whole, again)]
    torch.save((losses, state(whole), state(again)), folder / f"{rank}.states")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.long
def test_two_workers_resume_bit_for_bit_whatever_statistics_each_had(tmp_path: Path) -> None:
    spawn(resume_together, (tmp_path,), nprocs=2)
    for rank in range(2):
        losses, whole, again = torch.load(tmp_path / f"{rank}.states")
        assert losses[0] == losses[1]
        torch.testing.assert_close(again, whole, rtol=0, atol=0)


def resume_apart(rank: int, folder: Path, cause: str) -> None:
    """Two workers record an epoch together; then the second one no longer finds, or cannot read, the checkpoint."""
    torch.set_num_threads(1)
    recording.load_splits = lambda *_, **__: tiny_splits()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    study, context = tiny_study(), DistributedContext(rank=rank, world_size=2)
    rows = run_recorded(study, TrialFolder(folder, 0), {}, context)
    assert next(rows)["epoch"] == 1
    rows.close()  # type: ignore[attr-defined]
    dist.barrier()
    if rank == 1 and cause == "damaged":
        torch.load = lambda *_, **__: {}
    elsewhere = folder / "elsewhere" if rank == 1 and cause == "missing" else folder
    try:
        list(run_recorded(study, TrialFolder(elsewhere, 0), {}, context))
    except WorkersDisagreeError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("cause", ["missing", "damaged"])
def test_workers_that_find_different_checkpoints_do_not_train_together(cause: str, tmp_path: Path) -> None:
    spawn(resume_apart, (tmp_path, cause), nprocs=2)
    for rank in range(2):
        assert "every machine of a cluster must see the study's folder" in (tmp_path / f"{rank}.txt").read_text()
    record = TrialFolder(tmp_path, 0).read()
    assert record is not None
    assert (record.status, len(record.rows)) == ("running", 1), "it can be resumed once the folder is seen"
    assert TrialFolder(tmp_path, 0).checkpoint.exists()

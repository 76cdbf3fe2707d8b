"""What a GPU computes is what the CPU computes; and what only a GPU can show (mark `gpu`).

Without a GPU those with the mark are deselected, and the others compare the CPU with itself, so that the checks are
known to work before there is a GPU. On a machine that has PyTorch and little else this file runs by itself:

    PYTHONPATH=. python3 -m pytest -c /dev/null --noconftest -p no:cacheprovider tests/test_gpu.py
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.splits import Splits
from cfamc_ray.evaluate import main as evaluate
from cfamc_ray.evaluation.attacks import pgd
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.crops import draw_crop_parameters, make_crops
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.train import main as train
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.recording import Row, run_recorded
from cfamc_ray.training.speedups import fused_norm_problem
from cfamc_ray.training.throughput import random_splits
from cfamc_ray.training.trial import Trial

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
pytestmark = [pytest.mark.gpu] if ON_GPU else []  # on a GPU, -m gpu selects all of this file
ONLY_ON_GPU = pytest.mark.gpu
ROOT = Path(__file__).parents[1]

ATTACKS: dict[str, dict[str, Any]] = {
    "free": {},
    "pgd": {"perturbation.attack": "pgd", "perturbation.steps": 2, "pretraining.replays": 1},
    "none": {"perturbation.attack": "none", "pretraining.replays": 1},
}
FASTER = ("compile", "cuda_graph", "split_stem", "fused_norm")
"""Keys of `pretraining` that change how a step is computed, not what."""
SIZES: dict[str, Any] = {
    **{"data.pretrain_images": 60, "data.probe_images": 60, "data.validation_images": 40},
    **{"crops.views": 4, "crops.size": 16, "crops.scale": [0.3, 1.0]},
    **{"encoder.width": 4, "encoder.prefeature_width": 32, "encoder.hidden_width": 32, "encoder.embedding_width": 16},
    **{"pretraining.batch_images": 20, "pretraining.epochs": 2, "pretraining.precision": "float64"},
    **{"evaluation.attacked_images": 20, "evaluation.attack.steps": 2},
    **{f"pretraining.{key}": False for key in FASTER},
}
SMALL = TrialConfig().with_values(SIZES)


def coloured(images: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images_NCHW, uint8, of ten classes, each of a pattern of its own; labels_N."""
    patterns = torch.randint(48, 208, (10, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    labels_N = torch.arange(images) % 10
    noise = torch.randint(-48, 49, (images, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
    return (patterns[labels_N] + noise).to(torch.uint8), labels_N


@pytest.fixture(scope="module")
def splits() -> Splits:
    images_NCHW, labels_N = coloured(160, seed=1)
    labelled = LabelledImages(images_NCHW, labels_N)
    return Splits(
        pretrain=ImageSubset(images_NCHW, torch.arange(60)),
        probe=labelled.take(torch.arange(60, 120)),
        validation=labelled.take(torch.arange(120, 160)),
        classes=10,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file of a data set."""
    path = tmp_path_factory.mktemp("data") / "coloured.npz"
    arrays: dict[str, Any] = {}
    for split, count in (("train", 100), ("test", 40)):
        images_NCHW, labels_N = coloured(count, seed=count)
        arrays |= {f"x_{split}": images_NCHW.permute(0, 2, 3, 1).numpy(), f"y_{split}": labels_N.numpy()}
    np.savez(path, **arrays)
    return path


def trial(splits: Splits, device: torch.device = DEVICE, changes: dict[str, Any] | None = None) -> Trial:
    return Trial(SMALL.with_values(changes or {}), splits, context=DistributedContext(device=device))


def assert_alike(rows: Iterable[TrialMetrics], others: Iterable[TrialMetrics], *, tolerance: float = 1e-6) -> None:
    """That two trials trained alike.

    The loss itself soon equals its optimum; how far the views are apart tells one trial from another. In float64
    rounding moves it by 1e-11, another step size or schedule by 0.1.
    """
    for row, other in zip(rows, others, strict=True):
        assert other.loss == pytest.approx(row.loss, rel=tolerance)
        assert other.loss_terms["coding_rate"] == pytest.approx(row.loss_terms["coding_rate"], rel=tolerance)
        ours, theirs = (1 - each.loss_terms["invariance"] for each in (other, row))
        assert ours == pytest.approx(theirs, rel=100 * tolerance)
        assert other.delta_mean == pytest.approx(row.delta_mean, rel=100 * tolerance)
        assert other.learning_rate == pytest.approx(row.learning_rate)


def recorded(folder: Path, images: Path, changes: dict[str, Any]) -> list[Row]:
    """The rows of a trial that leaves a folder."""
    keys = SIZES | {"data.name": "npz", "data.path": str(images)} | changes
    tree: dict[str, Any] = {"name": "recorded", "question": "Does it run?", "budget": {"trials": 1}}
    study: StudyConfig = resolve_study(
        tree, [f"{key}={json.dumps(value)}" for key, value in keys.items()], source="a test"
    )
    return list(run_recorded(study, TrialFolder(folder, 0), {}, DistributedContext(device=DEVICE)))


def test_crops_are_those_of_the_cpu() -> None:
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    parameters = draw_crop_parameters(CropsConfig(), images=8, height=32, width=32, generator=generator)
    here, there = make_crops(images, parameters, size=32), make_crops(images.to(DEVICE), parameters, size=32).cpu()
    # A pixel at the threshold of solarisation, or where the hue changes its sector, may fall on either side.
    assert ((here - there).abs() > 1e-4).double().mean() < 1e-3


@ONLY_ON_GPU
def test_the_papers_step_fits_and_is_measured() -> None:
    config = TrialConfig().with_values(
        {"data.pretrain_images": 200, "data.validation_images": 0, "pretraining.epochs": 2}
    )
    row = list(Trial(config, random_splits(config), context=DistributedContext(device=DEVICE)))[-1]
    assert row.precision == "bfloat16"
    assert row.device == torch.cuda.get_device_name(DEVICE)
    assert 2**30 < row.peak_memory_bytes < torch.cuda.get_device_properties(DEVICE).total_memory
    assert row.crop_passes_per_second > 0


@ONLY_ON_GPU
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_host_never_waits_in_the_loop_over_minibatches(splits: Splits, attack: str, precision: str) -> None:
    finished: list[int] = []

    def after_minibatch() -> None:  # of the second epoch's three, the middle one is watched from end to end
        finished.append(len(finished))
        torch.cuda.set_sync_debug_mode("error" if len(finished) == 4 else "default")

    config = SMALL.with_values({**ATTACKS[attack], "pretraining.precision": precision})
    training = Trial(
        config, splits, context=DistributedContext(device=DEVICE), seconds=1e6, on_minibatch=after_minibatch
    )
    try:
        list(training)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(finished) == 6


@ONLY_ON_GPU
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("every_step", [False, True])
def test_the_host_never_waits_between_the_steps_of_an_attack(splits: Splits, loss: Any, every_step: bool) -> None:
    encoder = trial(splits, DEVICE, {"pretraining.precision": "float32"}).trainer.encoder.eval()
    pixels_NCHW, labels_N = (each.to(DEVICE) for each in (splits.probe.images_NCHW[:] / 255, splits.probe.labels_N))
    steps = 4
    passes: list[int] = []

    def logits_of(images_NCHW: Tensor) -> Tensor:
        passes.append(len(passes))
        torch.cuda.set_sync_debug_mode("error" if len(passes) < steps else "default")
        return encoder(images_NCHW)[:, :10]  # type: ignore[no-any-return]

    attack = partial(pgd, logits_of, epsilon=8 / 255, steps=steps, step_size=2 / 255, loss=loss, every_step=every_step)
    try:
        attack(pixels_NCHW, labels_N)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(passes) > steps


KINDS = ATTACKS | {
    "group norm": {"encoder.norm": "group"},
    "nt_xent": {"loss.name": "nt_xent", "crops.views": 2, "perturbation.clean_views": 1},
    "activation_checkpointing": {"pretraining.views_at_once": 2, "pretraining.activation_checkpointing": True},
}


@pytest.mark.parametrize(
    "changes", [pytest.param(KINDS[kind], id=kind, marks=[] if kind == "free" else ONLY_ON_GPU) for kind in KINDS]
)
def test_a_trial_is_that_of_the_cpu(splits: Splits, changes: dict[str, Any]) -> None:
    here, there = list(trial(splits, CPU, changes)), list(trial(splits, DEVICE, changes))
    assert_alike(here, there)
    for one, other in zip(here, there, strict=True):
        assert other.clean_accuracy == pytest.approx(one.clean_accuracy, abs=0.05)
        assert other.robust_accuracy == pytest.approx(one.robust_accuracy, abs=0.1)


def test_scores_are_those_of_the_cpu(splits: Splits) -> None:
    encoder = trial(splits, CPU, {"pretraining.precision": "float32"}).trainer.encoder
    found = [
        search_scores(
            encoder.to(device),
            splits.probe,
            splits.validation,
            classes=10,
            config=SMALL.evaluation,
            generator=torch.Generator().manual_seed(0),
        )
        for device in (CPU, DEVICE)
    ]
    ours, theirs = (np.array([list(asdict(point).values()) for point in scores.points]) for scores in found)
    assert theirs == pytest.approx(ours, abs=0.05)
    assert [scores.attacked_images for scores in found] == [SMALL.evaluation.attacked_images] * 2
    assert found[0].balanced.clean_accuracy > 0.2  # ten classes: above chance, so that equal scores say something


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("bfloat16", 1e-2)])
def test_less_precision_changes_little(splits: Splits, precision: str, tolerance: float) -> None:
    exact = trial(splits, CPU).run_epoch()
    rounded = trial(splits, DEVICE, {"pretraining.precision": precision}).run_epoch()
    assert rounded.precision == precision
    assert rounded.loss_terms["coding_rate"] == pytest.approx(exact.loss_terms["coding_rate"], rel=tolerance)
    assert 1 - rounded.loss_terms["invariance"] == pytest.approx(1 - exact.loss_terms["invariance"], rel=10 * tolerance)


@pytest.mark.parametrize(
    ("before", "after"), sorted({(DEVICE, DEVICE), (CPU, DEVICE), (DEVICE, CPU)}, key=str), ids=str
)
def test_a_checkpoint_is_gone_on_from(
    splits: Splits, tmp_path: Path, before: torch.device, after: torch.device
) -> None:
    whole = list(trial(splits, CPU))[-1]
    begun, resumed = trial(splits, before), trial(splits, after)
    begun.run_epoch()
    begun.save(tmp_path / "checkpoint")
    resumed.load(tmp_path / "checkpoint")
    assert_alike([whole], resumed)


def test_an_encoder_is_read_on_the_cpu(splits: Splits, tmp_path: Path) -> None:
    trained = trial(splits, DEVICE, {"pretraining.precision": "float32"})
    trained.run_epoch()
    trained.save_encoder(tmp_path / "encoder.safetensors")
    pixels_NCHW = splits.validation.images_NCHW[:8] / 255
    with torch.no_grad():
        there_ND = trained.trainer.encoder.eval()(pixels_NCHW.to(DEVICE)).cpu()
        here_ND = load_encoder(tmp_path / "encoder.safetensors").eval()(pixels_NCHW)
    torch.testing.assert_close(here_ND, there_ND, rtol=1e-3, atol=1e-3)


@contextmanager
def out_of_memory() -> Iterator[None]:
    """No memory for large trials; on a CPU for none."""
    if not ON_GPU:
        with mock.patch(
            "cfamc_ray.training.minibatches.make_crops", side_effect=torch.OutOfMemoryError("CUDA out of memory.")
        ):
            yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.get_device_properties(DEVICE).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_trial_that_runs_out_of_memory_ends_alone(images: Path, tmp_path: Path) -> None:
    large = {"encoder.width": 64, "crops.views": 16, "crops.size": 64, "pretraining.batch_images": 60}
    held = torch.cuda.memory_allocated() if ON_GPU else 0
    with out_of_memory():
        (row,) = recorded(tmp_path / "large", images, large)
    assert row["status"] == "failed"
    assert row["reason"].startswith("out of memory: CUDA out of memory")
    if ON_GPU:
        assert torch.cuda.memory_allocated() < held + 2**26, "the trial is still held"
    rows = recorded(tmp_path / "small", images, {})
    assert [row["status"] for row in rows] == ["running", "finished"]


@pytest.mark.long
def test_a_run_is_trained_and_evaluated_by_the_commands(images: Path, tmp_path: Path) -> None:
    keys = SIZES | {"data.name": "npz", "data.path": str(images), "pretraining.precision": "auto"}
    words = [word for key, value in keys.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    assert train(["--recipe", "cf-amc-ssl", "--name", "run", "--out", str(tmp_path), *words]) == 0
    found = []
    for device in (CPU, DEVICE):
        record = tmp_path / f"{device}.json"
        counts = ["--set", "attack.steps=3", "--set", "attack.restarts=1", "--set", "autoattack_images=0"]
        counts += ["--set", "epsilons=[8/255]"]
        options = ["--device", device.type, "--out", str(record), *counts]
        assert evaluate([str(tmp_path / "run"), *options]) == 0
        found.append([result["accuracy"] for result in json.loads(record.read_text())["results"]])
    assert found[1] == pytest.approx(found[0], abs=0.1)
    assert found[0][0] > 0.2


@pytest.fixture
def _nothing_falls_back() -> Iterator[None]:
    """What cannot be built, or differs, is told by a warning that names its key: here it fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="pretraining")
        yield


SPEEDS = [
    *(pytest.param(["cuda_graph"], attack, id=f"cuda_graph {attack}") for attack in ATTACKS),
    pytest.param(["compile"], "free", id="compile"),
]


@pytest.mark.usefixtures("_nothing_falls_back")
@ONLY_ON_GPU
@pytest.mark.parametrize(("keys", "attack"), SPEEDS)
def test_a_faster_trial_is_the_same_trial(splits: Splits, keys: list[str], attack: str) -> None:
    plain = trial(splits, DEVICE, ATTACKS[attack])
    faster = trial(splits, DEVICE, ATTACKS[attack] | {f"pretraining.{key}": True for key in keys})
    assert_alike(plain, faster, tolerance=1e-5)  # a captured update has its learning rate in float32


def pass_through(splits: Splits, changes: dict[str, Any]) -> list[Tensor]:
    """Embeddings of some images by a trial's network, and the gradients for the images and the first weights."""
    network = trial(splits, DEVICE, {"encoder.width": 16, **changes}).trainer.network.train()
    dtype = next(network.parameters()).dtype
    pixels_NCHW = (splits.probe.images_NCHW[:].to(DEVICE, dtype) / 255).requires_grad_()
    z_ND = network(pixels_NCHW)
    direction_ND = torch.randn(z_ND.shape, generator=torch.Generator().manual_seed(0)).to(z_ND)
    (z_ND * direction_ND).sum().backward()
    gradients = [pixels_NCHW.grad, next(network.parameters()).grad]
    return [z_ND.detach().double(), *(gradient.double() for gradient in gradients if gradient is not None)]


@ONLY_ON_GPU
@pytest.mark.parametrize("keys", [["split_stem"], ["fused_norm"], ["split_stem", "fused_norm"], ["compile"]], ids=str)
def test_a_faster_pass_rounds_no_more_than_bfloat16_does(splits: Splits, keys: list[str]) -> None:
    low = {"pretraining.precision": "bfloat16"}
    exact, plain = pass_through(splits, {}), pass_through(splits, low)
    faster = pass_through(splits, low | {f"pretraining.{key}": True for key in keys})
    for right, one, other in zip(exact, plain, faster, strict=True):
        assert 0 < (one - right).norm() < right.norm()
        assert (other - right).norm() < 1.5 * (one - right).norm()


@ONLY_ON_GPU
def test_fused_kernels_agree_with_those_of_torch_on_this_gpu() -> None:
    assert fused_norm_problem(DEVICE) == ""


@ONLY_ON_GPU
@pytest.mark.usefixtures("_nothing_falls_back")
def test_all_that_makes_a_trial_faster_goes_together(splits: Splits) -> None:
    common = {"encoder.width": 16, "pretraining.precision": "bfloat16"}
    plain = trial(splits, DEVICE, common).run_epoch()
    faster = trial(splits, DEVICE, common | {f"pretraining.{key}": True for key in FASTER}).run_epoch()
    assert faster.loss_terms["coding_rate"] == pytest.approx(plain.loss_terms["coding_rate"], rel=1e-2)
    assert 1 - faster.loss_terms["invariance"] == pytest.approx(1 - plain.loss_terms["invariance"], rel=0.1)


@pytest.mark.long
def test_two_processes_share_the_device(images: Path, tmp_path: Path) -> None:
    keys = SIZES | {"data.name": "npz", "data.path": str(images)}
    keys |= {"resources.gpus_per_worker": 0.5} if ON_GPU else {"resources.cpus_per_worker": 1}
    words = [word for key, value in keys.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    names = ("one", "other")
    command = [sys.executable, "-m", "cfamc_ray.train", "--recipe", "cf-amc-ssl", "--out", str(tmp_path), *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    running = [subprocess.Popen([*command, "--name", name], env=environment) for name in names]
    assert [process.wait() for process in running] == [0, 0]
    one, other = ((tmp_path / name / "trial_00000" / "epochs.jsonl").read_text().splitlines() for name in names)
    assert len(one) == len(other) == 2
    assert json.loads(other[-1])["coding_rate"] == pytest.approx(json.loads(one[-1])["coding_rate"], rel=1e-6)

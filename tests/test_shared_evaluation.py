"""Two processes that share an evaluation have the scores of one, and stop together."""

from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_trials import tiny_config, tiny_splits
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from cfamc_ray.config.measures import MEASURES
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.attacks import pgd
from cfamc_ray.evaluation.margins import attack_margins
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE, DistributedContext
from cfamc_ray.training.trainer import initial_encoder
from cfamc_ray.training.trial import Trial, TrialFailed

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, Any]] = {
    "all attacked": {"attacked_images": 13, "attack.steps": 3},
    "an odd number attacked": {"attacked_images": 5},
    "one attacked": {"attacked_images": 1},
    "all broken in the first start": {"attacked_images": 13, "epsilon": 0.9},
    "image by image": {"attacked_images": 13, "batch_images": 1},
    "one strength": {"attacked_images": 13, "attack.steps": 3, "head.l2": 1e-2},
    "in l2": {"attacked_images": 13, "attack.steps": 3, "norm": "l2", "epsilon": 0.2},
    "head by head, in l2": {"attacked_images": 13, "attack.name": "pgd", "norm": "l2", "epsilon": 0.2},
    "head by head": {"attacked_images": 13, "attack.name": "pgd", "attack.steps": 3, "attack.restarts": 3},
    "all measures": {"attacked_images": 1, "measures": [{"name": name} for name in MEASURES.classes]},
    "head by head, to the last step": {"attacked_images": 13, "attack.name": "pgd", "attack.every_step": False},
}
"""All but one with the five strengths of the default."""


def images(count: int, seed: int) -> LabelledImages:
    """Noise with a class that a probe finds for most of them."""
    generator = torch.Generator().manual_seed(seed)
    images_NCHW = torch.randint(0, 180, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels_N = torch.arange(count) % 3
    images_NCHW[torch.arange(count), labels_N] += 30
    return LabelledImages(images_NCHW, labels_N)


def encoder() -> SelfSupervisedEncoder:
    """With statistics of batch norm that are of images."""
    drawn = initial_encoder(tiny_config()).double()
    with torch.no_grad():
        drawn.train()(torch.rand(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    return drawn


def found(workers: DistributedContext = ALONE) -> dict[str, Any]:
    """Scores of each case with the attack's generator as it is left, and adversarial images."""
    results: dict[str, Any] = {}
    for case, changes in CASES.items():
        trial = tiny_config().with_values({f"evaluation.{key}": value for key, value in changes.items()})
        config, generator = trial.evaluation, torch.Generator().manual_seed(1)
        scores = search_scores(
            encoder(),
            images(31, 1),
            images(13, 2),
            classes=3,
            config=config,
            generator=generator,
            workers=workers,
        )
        parameters = [parameter for head in scores.heads for parameter in head.parameters()]
        results[case] = astuple(replace(scores, heads=())), generator.get_state(), parameters
    weight_FK = torch.randn(192, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pixels, labels = images(13, 3).images_NCHW[:].double() / 255, torch.arange(13) % 3
    heads = [nn.Linear(192, 3, dtype=torch.float64).requires_grad_(False) for _ in range(3)]
    for seed, head in enumerate(heads):
        head.weight.copy_(weight_FK.T + torch.randn(3, 192, generator=torch.Generator().manual_seed(seed)) / 4)
        head.bias.zero_()
    results["left"] = attack_margins(
        lambda x: torch.stack([head(x.flatten(1)) for head in heads], 1),
        pixels,
        labels,
        torch.stack([head(pixels.flatten(1)).argmax(-1) == labels for head in heads], 1),
        epsilon=0.002,
        steps=2,
        generator=torch.Generator().manual_seed(3),
        at_once=5,
        workers=workers,
    ).right_NL
    results["adversarial"] = pgd(
        lambda x: x.flatten(1) @ weight_FK,
        pixels,
        labels,
        epsilon=0.05,
        steps=2,
        step_size=0.03,
        restarts=3,
        generator=torch.Generator().manual_seed(3),
        workers=workers,
    )
    return results


def blind(features: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **settings: features(*args, **settings) * torch.nan


def reason_of_failure(rank: int) -> str:
    """Of a trial whose second worker alone computes features that are no numbers."""
    trial = Trial(tiny_config(), tiny_splits(), context=DistributedContext(rank=rank, world_size=2))
    if rank == 1:
        trial.trainer.encoder.features = blind(trial.trainer.encoder.features)  # type: ignore[method-assign]
    try:
        trial.run_epoch()
    except TrialFailed as error:
        return str(error)
    return "it did not fail"


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    results = found(DistributedContext(rank, 2))
    results["reason"] = reason_of_failure(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both workers found."""
    folder = tmp_path_factory.mktemp("workers")
    spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one worker finds, which tests only read."""
    return found()


def test_all_workers_have_the_scores_of_one_and_leave_the_generator_where_it_does(
    shared: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for case in CASES:
        scores, state, heads = alone[case]
        assert len(scores[0]) == (1 if case == "one strength" else 5)
        for results in shared:
            assert results[case][0] == scores, case
            assert torch.equal(results[case][1], state), case
            assert all(torch.equal(one, other) for one, other in zip(results[case][2], shared[0][case][2], strict=True))
            for one, other in zip(results[case][2], heads, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    robust = {point[-1] for case in CASES for point in alone[case][0][0]}
    assert robust > {0.0}, "some cases break everything, others do not"


def test_all_workers_know_of_each_head_which_images_are_broken(
    shared: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    expected = alone["left"]
    assert 0 < expected.sum() < expected.numel()
    for results in shared:
        assert torch.equal(results["left"], expected)


def test_all_workers_have_the_adversarial_images_of_one(shared: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    expected = alone["adversarial"]
    for results in shared:
        torch.testing.assert_close(results["adversarial"], expected, rtol=0, atol=1e-12)


def test_features_that_are_no_numbers_on_one_worker_end_the_trial_on_all(shared: list[dict[str, Any]]) -> None:
    assert {results["reason"] for results in shared} == {
        "diverged: the encoder's features are not finite after epoch 1"
    }


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_parts_of_all_workers_are_of_one_size_and_begin_with_all_rows(count: int, size: int) -> None:
    parts = [DistributedContext(rank, size).part(torch.arange(count)) for rank in range(size)]
    assert {len(part) for part in parts} == {-(-count // size)}
    assert torch.cat(parts)[:count].tolist() == list(range(count))

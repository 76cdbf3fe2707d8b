"""The benchmark of data parallelism: what its works share and exchange, and that its numbers agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_trials import tiny_config, tiny_splits
from torch.multiprocessing.spawn import spawn

from benchmarks.data_parallel import Sizes
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.training.throughput import epoch_of
from cfamc_ray.training.trial import Trial

ROOT = Path(__file__).parent.parent.parent


def test_weak_scaling_makes_minibatches_larger_not_more() -> None:
    sizes = Sizes(workers=3, batch_images=6, minibatches=2, repeats=1)
    strong, weak = sizes.config(), sizes.config(growth=3)
    assert strong.crop_passes_per_epoch == 8 * 6 * 2 * 3  # views, images, minibatches, replays
    assert weak.crop_passes_per_epoch == 3 * strong.crop_passes_per_epoch
    assert weak.updates == strong.updates
    assert weak.encoder == strong.encoder
    assert strong.encoder.model_dump() == read_recipe("cf-amc-ssl").trial().encoder.model_dump()


def both_kinds_of_epoch(rank: int, folder: Path) -> None:
    """The weights of one of two workers after each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    trial = Trial(tiny_config(), tiny_splits(), context=DistributedContext(rank=rank, world_size=2))
    for synchronised in (True, False):
        epoch_of(trial, synchronised=synchronised)()
        weights = torch.cat([parameter.detach().flatten() for parameter in trial.trainer.encoder.parameters()])
        torch.save(weights, folder / f"{synchronised} {rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.long
def test_workers_part_in_the_unsynchronised_epoch_alone(tmp_path: Path) -> None:
    spawn(both_kinds_of_epoch, (tmp_path,), nprocs=2)
    one, other = ([torch.load(tmp_path / f"{kind} {rank}.pt") for kind in (True, False)] for rank in (0, 1))
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1])


@pytest.mark.long
def test_one_repeat_gives_rates_and_ratios_that_agree(tmp_path: Path) -> None:
    command = "-m benchmarks.data_parallel --device cpu --repeats 1 --batch-images 2 --width 8 --json"
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # the other tests want the cores too
    subprocess.run(
        [sys.executable, *command.split(), tmp_path / "found.json"], cwd=ROOT, env=environment, check=True, timeout=110
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["workers"], found["backend"], found["views"], found["batch_images"]) == (2, "gloo", 8, 2)
    speed = {name: values["median"] for name, values in found["crop_passes_per_s"].items()}
    works = {"strong", "strong_unsynchronised", "weak", "weak_unsynchronised"}
    assert speed.keys() == {"one_worker_one_thread", "one_worker_all_threads", *works}
    assert min(speed.values()) > 0

    alone = speed["one_worker_one_thread"]
    assert found["strong_speed_up"]["median"] == pytest.approx(speed["strong"] / alone)
    assert found["strong_over_threads"]["median"] == pytest.approx(speed["strong"] / speed["one_worker_all_threads"])
    assert found["weak_efficiency"]["median"] == pytest.approx(speed["weak"] / (2 * alone))
    for name, share in found["communication_share"].items():
        assert share["median"] == pytest.approx(1 - speed[name] / speed[f"{name}_unsynchronised"])

"""What a cell's measurement holds, of one worker and of two."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from cfamc_ray.config.scaling import Cell, ScalingConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.cells import Measured, Measurements
from cfamc_ray.training.throughput import in_turns, measure_cell, product_flops, random_splits, seconds_of

CPU = torch.device("cpu")
CONFIG = ScalingConfig.model_validate(
    {
        "name": "tiny",
        "trial": {
            "encoder": {"width": 4, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 8},
            "pretraining": {"batch_images": 8, "replays": 2, "precision": "float32"},
            "crops": {"views": 2, "size": 8},
        },
        "system": {"grid": {"workers": [1, 2]}, "minibatches": 3, "repeats": 2},
    }
)


def check(found: dict[str, Any], cell: Cell) -> None:
    assert (found["updates"], found["crop_passes"]) == (6, 2 * 8 * 3 * 2)
    assert found["peak_memory_bytes"] > 1e7
    assert found["product_flops_per_second"] > 1e8
    assert (found["precision"], found["number_bytes"], found["device"]) == ("float32", 4, "CPU, 1 thread")
    measured = Measured(cell, Measurements.model_validate(found))
    assert set(measured.phase_shares) == {
        *("crops", "forward", "loss", "backward", "optimizer", "perturbation", "other"),
    }
    assert all(0 < share < 1 for share in measured.phase_shares.values())
    assert all(len(taken) == 2 for taken in found["seconds"].values())


def test_a_cell_of_one_worker() -> None:
    (cell,) = (cell for cell in CONFIG.cells if cell.workers == 1)
    found = measure_cell(cell, CONFIG.system, DistributedContext())
    check(found, cell)
    assert (set(found["seconds"]), found["sums"]) == ({"steps"}, [])


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    (cell,) = (cell for cell in CONFIG.cells if cell.workers == 2)
    found = measure_cell(cell, CONFIG.system, DistributedContext(rank=rank, world_size=2))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.long
def test_a_cell_of_two_workers(tmp_path: Path) -> None:
    spawn(worker, (tmp_path,), nprocs=2)
    (cell,) = (cell for cell in CONFIG.cells if cell.workers == 2)
    found = json.loads((tmp_path / "0.json").read_text())
    check(found, cell)
    assert set(found["seconds"]) == {"steps", "unsynchronised", "alone"}
    assert [size for size, _ in found["sums"]] == [2**10, 2**18, 2**22, 2**25]
    assert all(seconds > 0 for _, seconds in found["sums"])
    measured = Measured(cell, Measurements.model_validate(found))
    assert measured.weak_efficiency is not None
    assert measured.communication_share is not None
    assert measured.communication_share < 1
    other = json.loads((tmp_path / "1.json").read_text())
    assert other["peak_memory_bytes"] == found["peak_memory_bytes"], "that of the last worker"


def test_works_take_turns_and_warm_up_first() -> None:
    order: list[str] = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = in_turns(works, repeats=2, device=CPU, warm_ups=1)
    assert order == ["a", "b"] * 3
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    assert seconds_of(lambda: None, CPU) < 1


def test_random_images_are_as_large_as_the_crops_and_no_two_sets_alike() -> None:
    (cell, *_) = CONFIG.cells
    one, other = (random_splits(cell.trial).pretrain.images_NCHW[:] for _ in range(2))
    assert (one.shape, one.dtype) == ((24, 3, 8, 8), torch.uint8)
    assert not torch.equal(one, other)


def test_a_product_runs_at_a_rate_that_this_machine_can_have() -> None:
    assert 1e8 < product_flops(CPU, torch.float32) < 1e15

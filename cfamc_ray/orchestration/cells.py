"""The system part of a scaling study: cells are measured one after another, each in its own processes."""

import socket
from collections.abc import Callable
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cfamc_ray.config.resources import ResourceConfig
from cfamc_ray.config.scaling import Cell, ScalingConfig, SystemConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.orchestration.growing import SizeWatch
from cfamc_ray.orchestration.packing import Packed, pack
from cfamc_ray.orchestration.session import running_ray
from cfamc_ray.store.cells import CellFolder, cell_line
from cfamc_ray.store.environment import environment
from cfamc_ray.terminal import Detail, ProgressView
from cfamc_ray.training.allocator import use_device, worker_device
from cfamc_ray.training.throughput import measure_cell


class CellWorker:
    """A process that measures one cell, alone or with other workers, and ends."""

    def meeting(self) -> str:
        """An address on this worker's machine for the process group."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def measure(
        self, packed: Packed[Cell], system: SystemConfig, resources: ResourceConfig, rank: int, meeting: str
    ) -> dict[str, Any]:
        """Measure a cell as one of its workers.

        Args:
            packed: the packed cell.
            system: numbers of repeats.
            resources: resources of each worker.
            rank: rank of this worker.
            meeting: address of the process group.

        Returns:
            The measurements of `measure_cell`.
        """
        cell = packed.unpack()
        torch.set_num_threads(resources.cpus_per_worker)
        device = worker_device(resources)
        use_device(device, resources.gpus_per_worker)
        if cell.workers > 1:
            backend = "nccl" if resources.gpus_per_worker else "gloo"
            dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=cell.workers)
        return measure_cell(cell, system, DistributedContext(rank=rank, world_size=cell.workers, device=device))


def run_cells(config: ScalingConfig, folder: CellFolder, *, address: str | None, detail: Detail) -> None:
    """Measure the cells that have not been measured; a failure is recorded with its reason.

    Args:
        config: config of the scaling study.
        folder: folder of its system part.
        address: address of a running Ray cluster; None to start Ray on this machine.
        detail: amount of progress output.

    Raises:
        InputError: if the cluster cannot be reached, or is too small for the cell with the most workers.
    """
    missing = [cell for cell in config.cells if not folder.measured(cell)]
    if not missing:
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    needed = config.resources.model_copy(
        update={"trials_at_once": 1, "workers_per_trial": max(cell.workers for cell in missing)}
    )
    with (
        running_ray(needed, folder.path, address) as person,
        ProgressView("cells", len(config.cells), person, detail=detail) as view,
    ):
        view.advance(len(config.cells) - len(missing))
        for cell in missing:
            measured = _measure(cell, config, view.say)
            folder.write(cell, measured | {"environment": environment()})
            if detail == "verbose" or measured["status"] == "failed":
                view.say(cell_line(cell, measured))
            view.advance()


def _measure(cell: Cell, config: ScalingConfig, say: Callable[[str], object]) -> dict[str, Any]:
    resources = config.resources
    bundle = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    places = placement_group([{name: n for name, n in bundle.items() if n}] * cell.workers, strategy="PACK")
    strategy = PlacementGroupSchedulingStrategy(placement_group=places)
    worker = ray.remote(CellWorker).options(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, scheduling_strategy=strategy
    )
    try:
        SizeWatch(resources, cell.workers, say).wait([places.ready()])
        workers = [worker.remote() for _ in range(cell.workers)]
        meeting, packed = ray.get(workers[0].meeting.remote()), pack(cell, config.plugins)
        answers = [
            each.measure.remote(packed, config.system, resources, rank, meeting) for rank, each in enumerate(workers)
        ]
        return {"status": "finished", "reason": "", **ray.get(answers)[0]}
    except RayError as error:
        return {"status": "failed", "reason": str(error).strip().splitlines()[-1]}
    finally:
        remove_placement_group(places)  # also ends the workers

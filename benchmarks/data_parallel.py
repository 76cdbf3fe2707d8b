"""Weak and strong scaling of data-parallel training on one machine, and what the exchange of gradients costs.

The paper's encoder and recipe with V=8 on random images, augmentation included, 16 images a minibatch on a CPU. Two
processes live throughout. Between two barriers both run an epoch of a trial that they share, or the first one runs one
of its own while the second waits. After a warm-up these works take turns:

* one_worker_one_thread, one_worker_all_threads: a minibatch by one process, the latter with a thread for each worker.
* strong: the same minibatch by all workers (gloo), each of one thread.
* weak: as many images for each worker as the one worker has.
* strong_unsynchronised, weak_unsynchronised: the same without the sum of the gradients (and without batch norm's
  buffers); how much sooner they end is the share of communication. The embeddings are gathered in both.

The efficiency of weak scaling is crop passes a second over that of so many single workers of one thread. On 2 cores it
cannot reach 1: the single worker has the machine's memory bandwidth and cache for itself, the two compete for them.

On GPUs each worker takes one, over NCCL, 100 images a minibatch, and one_worker_all_threads is left out. That has not
been run yet.

    python -m benchmarks.data_parallel [--json FILE] [--repeats 3] [--workers 2] [--minibatches N] [--device cpu]

Takes about 3 minutes on 2 idle cores; see benchmarks/augmentation.py on threads where the cores are not idle.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.timing import BATCH, parser, ratios, report, summary
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.throughput import epoch_of, in_turns, random_splits
from cfamc_ray.training.trial import Trial

VIEWS = 8
MINIBATCHES = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True)
class Sizes:
    """What all works share."""

    workers: int
    batch_images: int
    """Of the one worker, and of all in strong scaling."""
    minibatches: int
    repeats: int
    width: int = 64
    """Of the encoder, whose other widths follow; 64 is the paper's."""

    def config(self, *, growth: int = 1) -> TrialConfig:
        """The recipe with minibatches that are so many times as large."""
        values = {
            "crops.views": VIEWS,
            "encoder.width": self.width,
            "encoder.prefeature_width": 64 * self.width,
            "encoder.hidden_width": 64 * self.width,
            "encoder.embedding_width": 16 * self.width,
            "data.pretrain_images": self.minibatches * self.batch_images * growth,
            "data.validation_images": 0,
            "pretraining.batch_images": self.batch_images * growth,
            "pretraining.epochs": 2 * (self.repeats + 1),  # each trial serves two works, which also warm up
        }
        return read_recipe("cf-amc-ssl").trial().with_values(values)


def with_threads(epoch: Callable[[], object] | None, *, threads: int = 1) -> Callable[[], None]:
    """An epoch on all workers, each at its own; none on a worker that waits."""

    def work() -> None:
        if epoch is not None:
            torch.set_num_threads(threads)
            epoch()
            torch.set_num_threads(1)

    return work


def works_of(sizes: Sizes, context: DistributedContext) -> dict[str, Callable[[], None]]:
    """What this worker does in each work."""
    strong, weak = (
        Trial(config, random_splits(config), context=context)
        for config in (sizes.config(), sizes.config(growth=sizes.workers))
    )
    alone: Callable[[], object] | None = None
    if context.rank == 0:
        config = sizes.config()
        alone = Trial(config, random_splits(config), context=DistributedContext(device=context.device)).run_epoch
    works = {
        "one_worker_one_thread": with_threads(alone),
        "one_worker_all_threads": with_threads(alone, threads=sizes.workers),
        "strong": with_threads(epoch_of(strong)),
        "strong_unsynchronised": with_threads(epoch_of(strong, synchronised=False)),
        "weak": with_threads(epoch_of(weak)),
        "weak_unsynchronised": with_threads(epoch_of(weak, synchronised=False)),
    }
    if context.device.type == "cuda":
        del works["one_worker_all_threads"]
    return works


def worker(rank: int, sizes: Sizes, kind: str, folder: Path) -> None:
    """One process; the first writes the seconds of each work."""
    keep_freed_memory()
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    meeting, backend = f"file://{folder / 'meeting'}", "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=sizes.workers)
    works = works_of(sizes, DistributedContext(rank=rank, world_size=sizes.workers, device=device))
    dist.barrier()
    seconds = in_turns(works, repeats=sizes.repeats, device=device)
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def saved(whole: Sequence[float], without: Sequence[float]) -> list[float]:
    """The share of the time that is saved, in each repeat."""
    return [1 - less / taken for taken, less in zip(whole, without, strict=True)]


def measure(sizes: Sizes, kind: str) -> dict[str, Any]:
    """All works in turns, and what they say about scaling."""
    with TemporaryDirectory() as folder:
        spawn(worker, (sizes, kind, Path(folder)), nprocs=sizes.workers)
        seconds: dict[str, list[float]] = json.loads((Path(folder) / "seconds.json").read_text())
    passes, weak_passes = (sizes.config(growth=growth).crop_passes_per_epoch for growth in (1, sizes.workers))
    speeds = {
        name: [(weak_passes if name.startswith("weak") else passes) / taken for taken in each]
        for name, each in seconds.items()
    }
    alone, threaded = speeds["one_worker_one_thread"], speeds.get("one_worker_all_threads")
    return {
        "crop_passes_per_s": {name: summary(each) for name, each in speeds.items()},
        "strong_speed_up": ratios(speeds["strong"], alone),
        "strong_over_threads": ratios(speeds["strong"], threaded) if threaded else None,
        "weak_efficiency": ratios(speeds["weak"], [sizes.workers * speed for speed in alone]),
        "communication_share": {
            name: summary(saved(seconds[name], seconds[f"{name}_unsynchronised"])) for name in ("strong", "weak")
        },
        "workers": sizes.workers,
        "backend": "nccl" if kind == "cuda" else "gloo",
        "views": VIEWS,
        "width": sizes.width,
        "batch_images": sizes.batch_images,
        "replays": sizes.config().pretraining.replays,
        "minibatches": sizes.minibatches,
        "repeats": sizes.repeats,
    }


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--batch-images", type=int, help="of one worker; a multiple of the workers")
    options.add_argument("--minibatches", type=int, help="of each epoch")
    options.add_argument("--width", type=int, default=64, help="of the encoder")
    options.set_defaults(device="cuda" if torch.cuda.device_count() > 1 else "cpu")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    sizes = Sizes(
        workers=arguments.workers,
        batch_images=arguments.batch_images or BATCH[device.type],
        minibatches=arguments.minibatches or MINIBATCHES[device.type],
        repeats=arguments.repeats,
        width=arguments.width,
    )
    if sizes.batch_images % sizes.workers:
        options.error(f"--batch-images must be a multiple of {sizes.workers}, not {sizes.batch_images}")
    if device.type == "cuda" and torch.cuda.device_count() < sizes.workers:
        options.error(f"--workers must not exceed {torch.cuda.device_count()}, the number of GPUs")
    report(measure(sizes, device.type), device, arguments.json)


if __name__ == "__main__":
    main()

"""Crop passes a second of our training loop against the published one in plain PyTorch, in the same run.

The paper's encoder and recipe (ResNet-18, V=16, m=3) on random images; augmentation included. On a CPU 16 images a
minibatch, on a GPU 100. Each loop lives in a process of its own, ours with its allocator's settings, and after a
warm-up they take turns; a third process runs the published loop with our allocator's settings. The numbers are medians
and ranges, those of each loop beside the measured rate of a large matrix product (GEMM) in its arithmetic, and the
shares of the phases of our step, measured in an epoch of their own, in which the host waits for the device after each.

    python -m benchmarks.training_step [--json FILE] [--repeats 5] [--minibatches N] [--workers N] [--set KEY=VALUE]
                                       [--views 16] [--batch-images N] [--alone] [--profile]

Takes about 7 minutes on 2 cores. `--set` changes our trial alone; `--alone` leaves the published loop out; `--profile`
prints our costliest operations.
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.profiler import profile

from benchmarks.timing import BATCH, Apart, parser, ratios, report, summary
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.yaml12 import parse_yaml
from cfamc_ray.cost.counting import crop_pass_flops
from cfamc_ray.method.losses import coding_rate
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.method.phases import timed_phases
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.throughput import in_turns, product_flops, random_splits, seconds_of
from cfamc_ray.training.trial import Trial

MINIBATCHES = {"cpu": 2, "cuda": 30}
KEEPING = "reference, memory kept"
TOP = 15
"""Operations of a profile."""


class Ours:
    """Our loop in its process."""

    def __init__(self, config: TrialConfig, device: torch.device) -> None:
        keep_freed_memory()
        self.config, self.device = config, device
        self.trial = Trial(config, random_splits(config), context=DistributedContext(device=device))
        z_VBD = torch.randn(config.crops.views, config.pretraining.batch_images, config.encoder.embedding_width)
        self.z_VBD = torch.nn.functional.normalize(z_VBD, dim=-1).to(device).requires_grad_()

    def epoch(self) -> None:
        """All minibatches."""
        self.trial.run_epoch()

    def crops(self) -> None:
        """The crops of all minibatches, alone."""
        for step in range(self.config.minibatches_per_epoch):
            self.trial.minibatches.crops(torch.arange(self.config.data.pretrain_images), 0, step)

    def coding_rates(self) -> None:
        """The coding rate of all updates, forward and backward."""
        for _ in range(self.config.updates // self.config.pretraining.epochs):
            coding_rate(self.z_VBD).sum().backward()

    def peak_memory(self) -> int:
        """Bytes, of the last epoch."""
        return self.trial.rows[-1].peak_memory_bytes

    def gemm(self) -> tuple[str, float]:
        """Arithmetic of the steps, and FLOP a second of a large matrix product in it."""
        dtype = self.trial.trainer.autocast or self.trial.trainer.weight_type
        return str(dtype).removeprefix("torch."), product_flops(self.device, dtype)

    def phases(self) -> dict[str, float]:
        """Seconds of an epoch by phase; the device's work is waited for after each."""
        with timed_phases(self.device) as seconds:
            seconds["epoch"] = seconds_of(self.epoch, self.device)
        return dict(seconds)

    def profile(self) -> str:
        """A table of the costliest operations of an epoch."""
        with profile() as profiler:
            self.epoch()
        return str(profiler.key_averages().table(sort_by=f"self_{self.device.type}_time_total", row_limit=TOP))


class Reference:
    """The published loop in its process; its loader goes on in the background, as it does there."""

    def __init__(self, config: TrialConfig, device: torch.device, workers: int, keeps_memory: bool) -> None:
        from benchmarks.reference_loop import (  # noqa: PLC0415 (torchvision is slow to import)
            ReferenceEncoder,
            ReferenceLars,
            crop_loader,
            reference_training,
        )

        if keeps_memory:
            keep_freed_memory()
        self.device = device
        self.minibatches = config.minibatches_per_epoch
        images_NCHW = random_splits(config).pretrain.images_NCHW[:]
        if device.type == "cuda":  # one pass of the loader for all repeats: a GPU would mostly wait for its start
            images_NCHW = images_NCHW.repeat(config.pretraining.epochs, 1, 1, 1)
        encoder = ReferenceEncoder().to(device).train()
        loader = crop_loader(
            images_NCHW,
            views=config.crops.views,
            batch_images=config.pretraining.batch_images,
            workers=workers,
        )
        self.training = reference_training(
            encoder,
            ReferenceLars(list(encoder.parameters()), lr=config.optimizer.lr),
            None,
            itertools.chain.from_iterable(_for_ever(loader)),
            device=device,
            replays=config.pretraining.replays,
        )

    def epoch(self) -> None:
        """As many minibatches as ours."""
        list(itertools.islice(self.training, self.minibatches))

    def gemm(self) -> tuple[str, float]:
        """As `Ours.gemm`: float32, on a GPU with TF32 as torch's convolutions have it unless told otherwise."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        precision = "tf32" if self.device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"
        return precision, product_flops(self.device, torch.float32)


class Speed(NamedTuple):
    """How fast a loop was, in a process of its own."""

    config: TrialConfig
    """What it trained."""
    seconds: Sequence[float]
    """Of each epoch."""
    precision: str
    gemm_flops: float
    """FLOP a second of a large matrix product in this precision."""

    @property
    def crops_per_s(self) -> list[float]:
        """Crop passes a second, epoch by epoch."""
        return [self.config.crop_passes_per_epoch / each for each in self.seconds]

    def described(self) -> dict[str, Any]:
        """Crop passes a second; FLOP a second, beside those of the matrix product, and their ratio."""
        crops_per_s = summary(self.crops_per_s)
        flops = crops_per_s["median"] * crop_pass_flops(self.config.encoder, self.config.crops.size)[0]
        return {
            "crops_per_s": crops_per_s,
            "precision": self.precision,
            "tflop_per_s": flops / 1e12,
            "gemm_tflop_per_s": self.gemm_flops / 1e12,
            "model_flops_utilisation": flops / self.gemm_flops,
        }


def _for_ever(loader: Any) -> Iterator[Any]:
    while True:
        yield loader


def measure(
    device: torch.device,
    *,
    views: int,
    batch_images: int,
    minibatches: int,
    repeats: int,
    workers: int,
    changes: Mapping[str, Any],
    alone: bool,
    profiled: bool,
) -> dict[str, Any]:
    """The loops in turns; on a GPU, which does not use the C library's allocator, the published one once."""
    paper = read_recipe("cf-amc-ssl").trial()
    sizes = {
        "crops.views": views,
        "data.pretrain_images": minibatches * batch_images,
        "data.validation_images": 0,
        "pretraining.batch_images": batch_images,
        "pretraining.epochs": repeats + 5,  # warm-ups, phases and profile
    }
    published = paper.with_values(sizes)
    config = published.with_values(dict(changes))
    kept = {"reference": False} | ({} if device.type == "cuda" else {KEEPING: True})
    with ExitStack() as stack:
        our = stack.enter_context(Apart(Ours, config, device))
        references = {
            name: stack.enter_context(Apart(Reference, published, device, workers, keeps_memory))
            for name, keeps_memory in ({} if alone else kept).items()
        }
        seconds = in_turns(
            {
                "ours": lambda: our("epoch"),
                **{name: partial(reference, "epoch") for name, reference in references.items()},
                "crops": lambda: our("crops"),
                "coding rate": lambda: our("coding_rates"),
            },
            repeats=repeats,
            device=device,
        )
        peak_memory_bytes, phases = our("peak_memory"), our("phases")
        gemm = {name: loop("gemm") for name, loop in {"ours": our, **references}.items()}
        if profiled:
            print(our("profile"))
    trained = {"ours": config, **dict.fromkeys(references, published)}
    loops = {name: Speed(trial, seconds[name], *gemm[name]) for name, trial in trained.items()}
    crops_per_s = {name: loop.crops_per_s for name, loop in loops.items()}
    names = {"reference": "ratio", KEEPING: "ratio_to_reference_that_keeps_memory"}
    return {
        **{name: loop.described() for name, loop in loops.items()},
        **{names[name]: ratios(crops_per_s["ours"], crops_per_s[name]) for name in references},
        "milliseconds_per_replay": summary(
            [1000 * s / (minibatches * config.pretraining.replays) for s in seconds["ours"]]
        ),
        "peak_memory_bytes": peak_memory_bytes,
        "augmentation_share": ratios(seconds["crops"], seconds["ours"])["median"],
        "coding_rate_share": ratios(seconds["coding rate"], seconds["ours"])["median"],
        "phase_shares": {phase: s / phases["epoch"] for phase, s in phases.items() if phase != "epoch"},
        "views": config.crops.views,
        "batch_images": config.pretraining.batch_images,
        "replays": config.pretraining.replays,
        "minibatches": minibatches,
        "repeats": repeats,
        "changes": dict(changes),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=5)
    options.add_argument("--minibatches", type=int, help="of each repeat")
    cores = os.cpu_count() or 1
    options.add_argument(
        "--workers", type=int, default=min(8, max(1, cores - 1)), help="of the published loop's loader"
    )
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change our trial")
    options.add_argument("--views", type=int, default=16, help="of both loops (16, the paper's)")
    options.add_argument("--batch-images", type=int, help="images of a minibatch of both loops")
    options.add_argument("--alone", action="store_true", help="leave the published loop out")
    options.add_argument("--profile", action="store_true", help="print our costliest operations")
    chosen = options.parse_args(arguments)
    device = torch.device(chosen.device)
    found = measure(
        device,
        views=chosen.views,
        batch_images=chosen.batch_images or BATCH[device.type],
        minibatches=chosen.minibatches or MINIBATCHES[device.type],
        repeats=chosen.repeats,
        workers=chosen.workers,
        changes={key: parse_yaml(value) for key, value in (change.split("=", 1) for change in chosen.set)},
        alone=chosen.alone,
        profiled=chosen.profile,
    )
    report(found, device, chosen.json)


if __name__ == "__main__":
    main()

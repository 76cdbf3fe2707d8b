"""Crop passes a second of our training loop against the published one in plain PyTorch, in the same run.

The paper's encoder and recipe (ResNet-18, V=16, m=3) on random images; augmentation included. On a CPU 16 images a
minibatch, on a GPU 100. After a warm-up the two loops take turns; median and range of the repeats are printed, with the
measured rate of a large bfloat16 matrix product as what the hardware can do, and the share of making crops.

    python -m benchmarks.training_step [--json FILE] [--repeats 5] [--minibatches N] [--workers N]

Takes about 5 minutes on 2 cores.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reference_loop import ReferenceEncoder, ReferenceLars, crop_loader, reference_training
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.splits import Splits
from cfamc_ray.evaluation.cost import crop_pass_flops
from cfamc_ray.study.environment import environment
from cfamc_ray.trial import Place, Trial, device_name

PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product measures the peak."""
BATCH = {"cpu": 16, "cuda": 100}
MINIBATCHES = {"cpu": 2, "cuda": 30}


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall time, the device's work included."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_flops(device: torch.device) -> float:
    """The best of several bfloat16 matrix products, in FLOP a second."""
    side = PEAK_SIDE[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: one @ other, device) for _ in range(20))


def small_set(images: int) -> Splits:
    """Random images, none to judge by."""
    pixels_NCHW = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    nothing = LabelledImages(pixels_NCHW[:0], torch.zeros(0, dtype=torch.int64))
    return Splits(ImageSubset(pixels_NCHW, torch.arange(images)), nothing, nothing, classes=10)


def ours(
    config: TrialConfig, splits: Splits, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    """An epoch of our loop, and the making of its crops alone."""
    trial = Trial(config, splits, place=Place(device=device))
    order_n = torch.arange(len(splits.pretrain))
    return trial.run_epoch, lambda: [trial.crops(order_n, step) for step in range(config.minibatches_per_epoch)]


def reference(config: TrialConfig, splits: Splits, device: torch.device, workers: int) -> Callable[[], object]:
    """As many minibatches of the published loop; its loader goes on in the background, as it does there."""
    encoder = ReferenceEncoder().to(device).train()
    lars = ReferenceLars(list(encoder.parameters()), lr=config.optimizer.lr)
    loader = crop_loader(
        splits.pretrain.images_NCHW,
        views=config.crops.views,
        batch_images=config.pretraining.batch_images,
        workers=workers,
    )

    def minibatches() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    training = reference_training(encoder, lars, None, minibatches(), device=device, replays=config.pretraining.replays)
    return lambda: list(itertools.islice(training, config.minibatches_per_epoch))


def measure(device: torch.device, *, minibatches: int, repeats: int, workers: int) -> dict[str, Any]:
    """Both loops in turns."""
    batch = BATCH[device.type]
    config = (
        read_recipe("cf-amc-ssl")
        .trial()
        .with_values(
            {
                "data.pretrain_images": minibatches * batch,
                "data.validation_images": 0,
                "pretraining.batch_images": batch,
                "pretraining.epochs": repeats + 1,
            }
        )
    )
    splits = small_set(minibatches * batch)
    our_epoch, our_crops = ours(config, splits, device)
    works = {"ours": our_epoch, "reference": reference(config, splits, device, workers), "crops": our_crops}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            taken = seconds_of(work, device)
            if repeat > 0:  # the first warms up
                seconds[name].append(taken)
    passes = config.crop_passes_per_epoch
    speed = {name: [passes / taken for taken in seconds[name]] for name in ("ours", "reference")}
    peak = peak_flops(device)
    rate = statistics.median(speed["ours"]) * crop_pass_flops(config.encoder, config.crops.size)[0]
    return {
        "ours_crops_per_s": statistics.median(speed["ours"]),
        "ours_range": [min(speed["ours"]), max(speed["ours"])],
        "reference_crops_per_s": statistics.median(speed["reference"]),
        "reference_range": [min(speed["reference"]), max(speed["reference"])],
        "ratio": statistics.median(a / b for a, b in zip(speed["ours"], speed["reference"], strict=True)),
        "tflop_per_s": rate / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "peak_share": rate / peak,
        "augmentation_share": statistics.median(seconds["crops"]) / statistics.median(seconds["ours"]),
        "views": config.crops.views,
        "batch_images": batch,
        "replays": config.pretraining.replays,
        "minibatches": minibatches,
        "repeats": repeats,
        "device": device_name(device),
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minibatches", type=int, help="of each repeat")
    parser.add_argument("--workers", type=int, default=1, help="processes of the published loop's loader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    minibatches = arguments.minibatches or MINIBATCHES[device.type]
    found = measure(device, minibatches=minibatches, repeats=arguments.repeats, workers=arguments.workers)
    text = json.dumps(found, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()

"""Crops a second that our batched augmentation makes, against the published way, and where its time goes.

The paper's recipe (V=16, 32x32) on random images, 16 of them a minibatch on a CPU, 100 on a GPU. Works that take turns:

* ours: `Trial.crops`, which draws the parameters of a whole minibatch and makes its crops on the device, with all
  threads; on a CPU also with one.
* pil: the published transforms of PIL images, crop by crop in one process, moved to the device batch by batch.
* v2: the transforms of torchvision.transforms.v2, tensor by tensor on the device.

The parts of ours are clocked inside a run of its own, in which a GPU waits after each of them.

    python -m benchmarks.augmentation [--json FILE] [--repeats 5] [--minibatches N] [--device cpu]

Takes about 1 minute on 2 idle cores. Where other work wants them, threads that spin until the next has its turn make
ours with all threads slower than with one, by far; OMP_WAIT_POLICY=passive in the environment prevents that.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.reference_loop import crop_loader
from benchmarks.timing import BATCH, parser, ratios, report, summary
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import Splits
from cfamc_ray.method import crops
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.method.phases import now
from cfamc_ray.training import minibatches
from cfamc_ray.training.throughput import in_turns, random_splits, seconds_of
from cfamc_ray.training.trial import Trial

MINIBATCHES = {"cpu": 8, "cuda": 2}
PARTS = {
    "drawing": (minibatches, "draw_crop_parameters"),
    "cutting": (crops, "cut_boxes"),
    "colour jitter": (crops, "_jitter"),
    "blur": (crops, "_blur"),
}
"""Where the functions are looked up that the parts are made of; grey, solarisation and moving data are the rest."""

Making = Callable[[], list[Tensor]]
"""Makes all crops of some minibatches."""


def config_of(*, batch_images: int, minibatches: int) -> TrialConfig:
    """The recipe on few images."""
    values = {
        "data.pretrain_images": batch_images * minibatches,
        "data.validation_images": 0,
        "pretraining.batch_images": batch_images,
    }
    return read_recipe("cf-amc-ssl").trial().with_values(values)


def ours(config: TrialConfig, splits: Splits, device: torch.device) -> Making:
    """As a trial makes them."""
    trial = Trial(config, splits, context=DistributedContext(device=device))
    order_n = torch.arange(len(splits.pretrain))
    return lambda: [trial.minibatches.crops(order_n, 0, step) for step in range(config.minibatches_per_epoch)]


def pil(config: TrialConfig, splits: Splits, device: torch.device) -> Making:
    """The published way."""
    loader = crop_loader(
        splits.pretrain.images_NCHW[:],
        views=config.crops.views,
        batch_images=config.pretraining.batch_images,
        size=config.crops.size,
        workers=0,
    )
    return lambda: [torch.stack(views).to(device) for views in loader]


def tensor_transform(config: CropsConfig) -> v2.Compose:
    """The same for one uint8 image, as a tensor in [0, 1]."""
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    blur = v2.GaussianBlur(kernel_size=17, sigma=config.blur_sigma)
    return v2.Compose(
        [
            v2.RandomResizedCrop(config.size, scale=config.scale, ratio=config.ratio, antialias=True),
            v2.RandomHorizontalFlip(config.flip_probability),
            v2.RandomApply([jitter], p=config.jitter_probability),
            v2.RandomGrayscale(config.grayscale_probability),
            v2.RandomApply([blur], p=config.blur_probability),
            v2.RandomSolarize(threshold=128, p=config.solarize_probability),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def tensors(config: TrialConfig, splits: Splits, device: torch.device) -> Making:
    """The other baseline."""
    transform, V = tensor_transform(config.crops), config.crops.views
    batches = splits.pretrain.images_NCHW[:].to(device).split(config.pretraining.batch_images)

    def views(images_BCHW: Tensor) -> Tensor:
        return torch.stack([torch.stack([transform(image_CHW) for image_CHW in images_BCHW]) for _ in range(V)])

    return lambda: [views(images_BCHW) for images_BCHW in batches]


def with_threads(threads: int, work: Callable[[], object]) -> Callable[[], object]:
    """The same by so many threads of the CPU."""

    def threaded() -> None:
        torch.set_num_threads(threads)
        work()

    return threaded


def seconds_of_parts(making: Making, device: torch.device) -> dict[str, float]:
    """Of each part of ours, and of the rest."""
    seconds = dict.fromkeys(PARTS, 0.0)

    def clocked(part: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            started = now(device)
            result = function(*arguments, **options)
            seconds[part] += now(device) - started
            return result

        return call

    with ExitStack() as patches:
        for part, (module, name) in PARTS.items():
            patches.enter_context(patch.object(module, name, clocked(part, getattr(module, name))))
        whole = seconds_of(making, device)
    return {**seconds, "rest": whole - sum(seconds.values())}


def measure(device: torch.device, *, minibatches: int, repeats: int) -> dict[str, Any]:
    """All works in turns, the clocked parts among them."""
    config = config_of(batch_images=BATCH[device.type], minibatches=minibatches)
    splits = random_splits(config)
    threads = torch.get_num_threads()
    making = ours(config, splits, device)
    parts: list[dict[str, float]] = []
    works = {
        "ours": with_threads(threads, making),
        "ours_one_thread": with_threads(1, making),
        "pil": with_threads(1, pil(config, splits, device)),
        "v2": with_threads(1, tensors(config, splits, device)),
        "parts": with_threads(threads, lambda: parts.append(seconds_of_parts(making, device))),
    }
    if device.type == "cuda":
        del works["ours_one_thread"]
    seconds = in_turns(works, repeats=repeats, device=device)
    torch.set_num_threads(threads)
    del seconds["parts"], parts[:-repeats]  # the first warmed up
    made = minibatches * config.pretraining.batch_images * config.crops.views
    pairs = [(mine, other) for mine in seconds if mine.startswith("ours") for other in ("pil", "v2")]
    return {
        "crops_per_s": {name: summary([made / taken for taken in each]) for name, each in seconds.items()},
        "ratios": {f"{mine} / {other}": ratios(seconds[other], seconds[mine]) for mine, other in pairs},
        "part_ms_per_minibatch": {
            part: summary([1e3 * each[part] / minibatches for each in parts]) for part in parts[0]
        },
        "part_shares": {part: summary([each[part] / sum(each.values()) for each in parts]) for part in parts[0]},
        "threads": threads,
        "views": config.crops.views,
        "size": config.crops.size,
        "batch_images": config.pretraining.batch_images,
        "minibatches": minibatches,
        "repeats": repeats,
    }


def main() -> None:
    options = parser(__doc__, repeats=5)
    options.add_argument("--minibatches", type=int, help="of each repeat")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    minibatches = arguments.minibatches or MINIBATCHES[device.type]
    report(measure(device, minibatches=minibatches, repeats=arguments.repeats), device, arguments.json)


if __name__ == "__main__":
    main()

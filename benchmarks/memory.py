"""Peak memory and time of training steps as the views grow, all of them at once or chunk by chunk.

The paper's recipe (m=3) on random images, augmentation included, with a growing number of views V:

* all: all views pass the network together.
* kept: 4 views at a time; the activations of all are kept for the backward pass.
* recomputed: 4 views at a time; their activations are computed again in the backward pass.

Each mode at each V has a process of its own, whose peak is the trial's `peak_memory_bytes`: on a GPU of its allocator,
on a CPU of the resident process, libraries included, so that there only differences between peaks say what views cost.
After a warm-up the modes of one V take turns. On a CPU 16 images a minibatch and half the widths of the paper's encoder
(`--width 64` is all of it), on a GPU 100 images and all of it.

    python -m benchmarks.memory [--json FILE] [--repeats 3] [--views 4 8 16 32] [--width N] [--batch-images N]

Takes about 5 minutes on 2 quiet cores.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from benchmarks.timing import BATCH, Apart, parser, ratios, report, summary
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.throughput import in_turns, random_splits
from cfamc_ray.training.trial import Trial

CHUNK = 4
MODES: dict[str, dict[str, Any]] = {
    "all": {"pretraining.views_at_once": None},
    "kept": {"pretraining.views_at_once": CHUNK},
    "recomputed": {"pretraining.views_at_once": CHUNK, "pretraining.activation_checkpointing": True},
}
WIDTH = {"cpu": 32, "cuda": 64}
"""Of the encoder's first stage; the paper's is 64."""
MINIBATCHES = {"cpu": 1, "cuda": 10}


class Cell:
    """A trial of one mode and V, in the process that it is made in."""

    def __init__(self, config: TrialConfig, device: torch.device) -> None:
        keep_freed_memory()
        self.trial = Trial(config, random_splits(config), context=DistributedContext(device=device))

    def epoch(self) -> None:
        """Train one."""
        self.trial.run_epoch()

    def bytes(self) -> tuple[int, int]:
        """The peak over all epochs; crops and perturbation, which every mode holds."""
        delta = self.trial.trainer.delta_VbCHW
        return self.trial.rows[-1].peak_memory_bytes, 2 * delta.numel() * delta.element_size()


def recipe(*, width: int, batch_images: int, minibatches: int, repeats: int) -> TrialConfig:
    """The paper's, with all widths of its encoder in proportion."""
    paper = read_recipe("cf-amc-ssl").trial()
    names = ("width", "prefeature_width", "hidden_width", "embedding_width")
    values = {f"encoder.{name}": getattr(paper.encoder, name) * width // paper.encoder.width for name in names}
    return paper.with_values(
        {
            **values,
            "data.pretrain_images": minibatches * batch_images,
            "data.validation_images": 0,
            "pretraining.batch_images": batch_images,
            "pretraining.epochs": repeats + 1,
        }
    )


def measure_views(config: TrialConfig, views: int, device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Bytes and seconds of all modes in turns."""
    with ExitStack() as stack:
        cells = {
            mode: stack.enter_context(Apart(Cell, config.with_values({"crops.views": views, **values}), device))
            for mode, values in MODES.items()
        }
        epochs = in_turns(
            {mode: partial(cell, "epoch") for mode, cell in cells.items()}, repeats=repeats, device=device
        )
        sizes = {mode: cell("bytes") for mode, cell in cells.items()}
    seconds = {mode: [taken / config.minibatches_per_epoch for taken in epochs[mode]] for mode in MODES}
    modes = {
        mode: {"peak_memory_bytes": sizes[mode][0], "seconds_per_minibatch": summary(seconds[mode])} for mode in MODES
    }
    return {
        "crops_and_delta_bytes": sizes["all"][1],
        **modes,
        "recomputed_over_kept_seconds": ratios(seconds["recomputed"], seconds["kept"]),
        "recomputed_over_all_seconds": ratios(seconds["recomputed"], seconds["all"]),
    }


def growth(by_views: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Of the peaks from the smallest to the largest V, libraries, weights, crops and perturbation included."""
    few, many = by_views[min(by_views)], by_views[max(by_views)]
    found: dict[str, Any] = {
        "views": [min(by_views), max(by_views)],
        "crops_and_delta_bytes": many["crops_and_delta_bytes"] - few["crops_and_delta_bytes"],
    }
    for mode in MODES:
        before, after = few[mode]["peak_memory_bytes"], many[mode]["peak_memory_bytes"]
        found[mode] = {"bytes": after - before, "ratio": after / before}
    return found


def measure(config: TrialConfig, views: Sequence[int], device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Every V after the other."""
    by_views = {count: measure_views(config, count, device, repeats=repeats) for count in sorted(views)}
    return {
        "by_views": by_views,
        "peak_growth": growth(by_views),
        "views_at_once": CHUNK,
        "batch_images": config.pretraining.batch_images,
        "replays": config.pretraining.replays,
        "minibatches": config.minibatches_per_epoch,
        "repeats": repeats,
        "paper_encoder": config.encoder == read_recipe("cf-amc-ssl").trial().encoder,
        "encoder": config.encoder.model_dump(),
    }


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--views", type=int, nargs="+", default=[4, 8, 16, 32], metavar="V")
    options.add_argument("--width", type=int, help="of the encoder's first stage; its other widths in proportion")
    options.add_argument("--batch-images", type=int, help="of a minibatch")
    options.add_argument("--minibatches", type=int, help="of each repeat")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    config = recipe(
        width=arguments.width or WIDTH[device.type],
        batch_images=arguments.batch_images or BATCH[device.type],
        minibatches=arguments.minibatches or MINIBATCHES[device.type],
        repeats=arguments.repeats,
    )
    report(measure(config, arguments.views, device, repeats=arguments.repeats), device, arguments.json)


if __name__ == "__main__":
    main()

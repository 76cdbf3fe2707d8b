"""The path of photographs of 224 pixels: decoding, the cache, training steps, and the memory of an evaluation.

A folder of JPEG files of 256 to 500 pixels a side, which compress as photographs do, is written first. Then, each part
in a process of its own:

* decode: images a second by the package's reader with 1 and 2 threads, and, with 1 thread, by torchvision (decoding,
  central square, antialiased resizing), in turns; and the same for files of 2,000 pixels, which the reader decodes
  reduced, with and without that.
* cache: images a second of the whole folder into the cache, on all cores, with its peak memory; then of random batches
  read from it, with the growth of the peak while they are read.
* step: images and crop passes a second of training from the cache, ResNet-18 and ResNet-50 of full width, and the peak.
* evaluation: peak memory of a search's evaluation of few and of many images by the margins attack; on a CPU with a
  sixteenth of the width.

Files and measured parts are kept in the folder: re-running continues, and measures what is missing.

    python -m benchmarks.large_images [--json FILE] [--images 20000] [--folder runs/large_images] [--repeats 3]

With 20,000 images the folder takes 2 GB, its cache 3 GB, and the run about 20 minutes on 2 cores.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as transforms

from benchmarks.photographs import as_image, noise_field, write_photographs
from benchmarks.recorded import append, read
from benchmarks.timing import Apart, parser, ratios, report, summary
from cfamc_ray.config.data import parse_data
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.memory import peak_memory_bytes, reset_peak_memory
from cfamc_ray.data.decoding import read_square
from cfamc_ray.data.splits import load_splits
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.throughput import in_turns
from cfamc_ray.training.trial import Trial

SIDE = 224
CLASSES = 100
CPU = torch.device("cpu")
DECODED = 400
"""Files of each repeat of decoding."""
LARGE_FILES, LARGE_SIDE = 8, 2000
READ_BATCH = 64
BATCH = {"cpu": 4, "cuda": 64}
VIEWS = 2
EVALUATED = {"cpu": (600, 1200), "cuda": (1000, 4000)}
"""Few and many images; few are already several calls of the attack."""
WIDTH = {"cpu": 4, "cuda": 64}
"""Of the encoder that is evaluated."""


class Part:
    """A part of the benchmark, in the process that it is made in.

    Args:
        folder: of the photographs and the cache.
        images: number of photographs.
        device: device of the encoders.
        repeats: number of timed repeats.
        width: of the encoders that are trained; 64 is the usual one.
    """

    def __init__(self, folder: Path, images: int, device: torch.device, repeats: int, width: int) -> None:
        self.folder, self.images, self.device, self.repeats, self.width = folder, images, device, repeats, width
        keep_freed_memory()

    def decode(self) -> dict[str, Any]:
        """Photographs and large files by either decoder."""
        torch.set_num_threads(1)
        every = sorted((self.folder / "photographs").rglob("*.jpg"))
        files = every[:: max(len(every) // DECODED, 1)][:DECODED]
        large = [self.folder / f"large_{n}.jpg" for n in range(LARGE_FILES)]
        for n, file in enumerate(large):
            if not file.exists():
                as_image(noise_field(LARGE_SIDE, seed=n)).save(file, quality=90)
        works: dict[str, Callable[[], object]] = {
            "pillow_1_thread": partial(_each, _pillow, files, 1),
            "pillow_2_threads": partial(_each, _pillow, files, 2),
            "torchvision_1_thread": partial(_each, _torchvision, files, 1),
            "large_reduced": partial(_each, _pillow, large, 1),
            "large_whole": partial(_each, _whole, large, 1),
            "large_torchvision": partial(_each, _torchvision, large, 1),
        }
        seconds = in_turns(works, repeats=self.repeats, device=CPU)
        counts = {name: len(large if name.startswith("large") else files) for name in works}
        return {
            "images_per_s": {name: summary([counts[name] / each for each in taken]) for name, taken in seconds.items()},
            "gain_of_2_threads": ratios(seconds["pillow_1_thread"], seconds["pillow_2_threads"]),
            "gain_of_reduced": ratios(seconds["large_whole"], seconds["large_reduced"]),
            "mean_file_bytes": statistics.mean(file.stat().st_size for file in files),
        }

    def cache(self) -> dict[str, Any]:
        """Make the cache, and read all of it in random batches."""
        shutil.rmtree(self.folder / "imagefolder-cache", ignore_errors=True)
        reset_peak_memory(CPU)
        before, started = peak_memory_bytes(CPU), time.perf_counter()
        pretrain = load_splits(self.config().data, folder=self.folder).pretrain
        seconds, built = time.perf_counter() - started, peak_memory_bytes(CPU)
        pretrain.batch(torch.arange(READ_BATCH))
        reset_peak_memory(CPU)
        small, started = peak_memory_bytes(CPU), time.perf_counter()
        for positions_B in torch.randperm(len(pretrain)).split(READ_BATCH):
            pretrain.batch(positions_B)
        read_seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "images_per_s": self.images / seconds,
            "bytes": sum(file.stat().st_size for file in (self.folder / "imagefolder-cache").rglob("*.npy")),
            "peak_growth_bytes": built - before,
            "peak_memory_bytes": built,
            "read_images_per_s": len(pretrain) / read_seconds,
            "read_peak_growth_bytes": peak_memory_bytes(CPU) - small,
        }

    def resnet18(self) -> dict[str, Any]:
        """Training steps."""
        return self._steps("resnet18")

    def resnet50(self) -> dict[str, Any]:
        """Training steps."""
        return self._steps("resnet50")

    def _steps(self, architecture: str) -> dict[str, Any]:
        batch = BATCH[self.device.type]
        config = self.config(
            **{"encoder.architecture": architecture, "data.pretrain_images": batch, "data.validation_images": 0}
        )
        trial = Trial(
            config, load_splits(config.data, folder=self.folder), context=DistributedContext(device=self.device)
        )
        (seconds,) = in_turns({"step": trial.run_epoch}, repeats=self.repeats, device=self.device).values()
        return {
            "images_per_s": summary([batch / each for each in seconds]),
            "crop_passes_per_s": summary([config.crop_passes_per_epoch / each for each in seconds]),
            "peak_memory_bytes": trial.rows[-1].peak_memory_bytes,
            "batch_images": batch,
            "views": VIEWS,
            "replays": config.pretraining.replays,
            "precision": str(trial.trainer.autocast or trial.trainer.weight_type),
            "threads": torch.get_num_threads(),
        }

    def evaluation(self) -> dict[str, Any]:
        """Peaks of few and of many images."""
        few, many = (min(count, 3 * self.images // 5) for count in EVALUATED[self.device.type])
        config = self.config(
            **{
                "data.pretrain_images": BATCH[self.device.type],
                "data.validation_images": many,
                "encoder.width": WIDTH[self.device.type],
            }
        )
        splits = load_splits(config.data, folder=self.folder)
        trial = Trial(config, splits, context=DistributedContext(device=self.device))

        def peak(count: int) -> int:
            some = splits.validation.take(torch.arange(count))
            settings = config.evaluation.model_copy(update={"attacked_images": count})
            reset_peak_memory(self.device)
            generator = torch.Generator().manual_seed(0)
            encoder = trial.trainer.encoder
            search_scores(encoder, some, some, classes=CLASSES, config=settings, generator=generator)
            return peak_memory_bytes(self.device)

        peak(few)
        peaks = {"few": peak(few), "many": peak(many)}
        return {"images": {"few": few, "many": many}, "peak_memory_bytes": peaks, "width": config.encoder.width}

    def config(self, **values: Any) -> TrialConfig:
        """The paper's recipe at 224 pixels, for an epoch of a minibatch in each repeat."""
        data = parse_data(
            name="imagefolder",
            path=str(self.folder / "photographs"),
            image_size=SIDE,
            pretrain_images=self.images // 2,
            probe_images=2,
            validation_images=2,
        )
        recipe = read_recipe("cf-amc-ssl").trial().model_copy(update={"data": data})
        return recipe.with_values(
            {
                "crops.size": SIDE,
                "crops.views": VIEWS,
                "encoder.stem": "large",
                "evaluation.attack.steps": 1,
                "pretraining.batch_images": min(BATCH[self.device.type], self.images // 2),
                "pretraining.epochs": self.repeats + 1,
                **values,
            }
        )


PARTS = ("decode", "cache", "resnet18", "resnet50", "evaluation")


def _each(reader: Callable[[Path], object], files: list[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(reader, files):
            pass


def _pillow(file: Path) -> object:
    return read_square(file, SIDE)


def _whole(file: Path) -> object:
    draft = JpegImageFile.draft
    JpegImageFile.draft = lambda *_: None  # type: ignore[method-assign]
    try:
        return read_square(file, SIDE)
    finally:
        JpegImageFile.draft = draft  # type: ignore[method-assign]


def _torchvision(file: Path) -> Tensor:
    image_CHW = decode_jpeg(read_file(str(file)), mode=ImageReadMode.RGB)
    side = min(image_CHW.shape[1:])
    square_CHW: Tensor = transforms.resize(transforms.center_crop(image_CHW, [side, side]), [SIDE, SIDE])
    return square_CHW


def measure(
    folder: Path, images: int, device: torch.device, *, repeats: int, width: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts, each with what it was measured with; those that were measured before are read."""
    write_photographs(folder / "photographs", images, classes=CLASSES)
    record = folder / "parts.jsonl.gz"
    for part in PARTS:
        key = {"part": part, "images": images, "device": str(device), "repeats": repeats, "width": width}
        known = [entry["found"] for entry in read(record) if entry["key"] == key]
        if not known:
            with Apart(Part, folder, images, device, repeats, width) as apart:
                known = [apart(part)]
            append(record, {"key": key, "found": known[0]})
        yield part, known[-1]


def main() -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--images", type=int, default=20_000, help="of the folder, at least 400")
    options.add_argument("--folder", type=Path, default=Path("runs/large_images"), help="where files are kept")
    options.add_argument("--width", type=int, default=64, help="of the encoders that are trained")
    options.add_argument("--remark", metavar="TEXT", help="kept with the numbers, for example what else was running")
    arguments = options.parse_args()
    device, images = torch.device(arguments.device), arguments.images
    if images < 4 * CLASSES:
        options.error(f"--images must be at least {4 * CLASSES}, four of each class, not {images}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = arguments.folder.resolve() / str(images)
    repeats, width = arguments.repeats, arguments.width
    parts = dict(measure(folder, images, device, repeats=repeats, width=width))
    sizes = {"images": images, "classes": CLASSES, "sides": [256, 500], "image_size": SIDE}
    found = {**parts, **sizes, "width": width, "repeats": repeats, "pillow": version("pillow")}
    report(found | ({"remark": arguments.remark} if arguments.remark else {}), device, arguments.json)


if __name__ == "__main__":
    main()

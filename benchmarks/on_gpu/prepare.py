"""Fill a folder with what a machine without a network lacks: wheels, and as many images of CIFAR-10 as fit.

    python -m benchmarks.on_gpu.prepare [--folder .on_gpu] [--mebibytes 58] [--test-images 2000] [--also PACKAGE]

Images are read from cifar10.npz in the folder that CFAMC_DATA names, test images first, each split stratified. Wheels
are for Python 3.12 on x86-64, in the versions of requirements.txt. The machine itself must have what is larger: torch,
torchvision, numpy, pillow, scipy, matplotlib, tensorboard and pytest; `--also` carries one of them, or another package.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.on_gpu.sheets import IMAGES, LABELS, write_sheet
from cfamc_ray.cli.command import exit_code
from cfamc_ray.config.errors import InputError
from cfamc_ray.data.sources import data_folder
from cfamc_ray.data.stratification import stratified_order

ROOT = Path(__file__).parents[2]
WHEELS = (
    *("annotated-types", "pydantic", "pydantic-core", "typing-inspection", "typing-extensions"),
    *("ruamel-yaml", "safetensors", "rich", "markdown-it-py", "mdurl", "pygments"),
)
"""What `train`, `evaluate` and the benchmark of the training step import without Ray, but for what is large."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".on_gpu", help="is emptied first (.on_gpu)")
    parser.add_argument("--mebibytes", type=float, default=58, help="what it may take (58)")
    parser.add_argument("--test-images", type=int, default=2_000, help="as many as fit if fewer do (2000)")
    parser.add_argument("--also", action="append", default=[], metavar="PACKAGE", help="carry its wheel, too")
    chosen = parser.parse_args(argv)
    return exit_code(lambda: prepare(chosen.folder, chosen.mebibytes, chosen.test_images, [*WHEELS, *chosen.also]))


def prepare(folder: Path, mebibytes: float, test_images: int, packages: Sequence[str]) -> int:
    """Fill the folder; 0.

    Args:
        folder: is emptied first.
        mebibytes: what it may take.
        test_images: how many of them at most.
        packages: whose wheels are carried.

    Raises:
        InputError: where images are missing, a wheel is not to be had, or there is no room for images of both splits.
    """
    source = data_folder() / "cifar10.npz"
    if not source.is_file():
        raise InputError(f"{source}: there is none; name the folder that holds cifar10.npz in CFAMC_DATA")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    download(folder, packages)
    with np.load(source) as arrays:
        orders = {split: stratified_order(torch.from_numpy(arrays[f"y_{split}"]), 0).numpy() for split in SPLITS}
        labels = {f"y_{split}": arrays[f"y_{split}"][order] for split, order in orders.items()}
        np.savez(folder / LABELS, classes=arrays["classes"], **labels)
        counts = dict.fromkeys(SPLITS, 0)
        for split, most in (("test", test_images), ("train", len(orders["train"]))):
            images_NHWC = arrays[f"x_{split}"]
            for number, start in enumerate(range(0, min(most, len(images_NHWC)), IMAGES)):
                chosen = orders[split][start : min(start + IMAGES, most)]
                sheet = folder / f"{split}-{number:03}.webp"
                write_sheet(sheet, images_NHWC[chosen])
                if size_of(folder) > mebibytes * 2**20:
                    sheet.unlink()
                    break
                counts[split] += len(chosen)
    if not all(counts.values()):
        raise InputError(f"--mebibytes {mebibytes:g}: leaves no room for {IMAGES} images of each split; raise it")
    print(
        f"{folder}: {counts['train']} training and {counts['test']} test images, {len(packages)} wheels, "
        f"{size_of(folder) / 2**20:.1f} MiB"
    )
    return 0


SPLITS = ("train", "test")


def download(folder: Path, packages: Sequence[str]) -> None:
    """Download the wheels of packages, without what they need.

    Raises:
        InputError: where pip cannot.
    """
    pinned = [requirement(package) for package in packages]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", *platforms]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *target, "-d", str(folder), *pinned]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603 (our own words)
    if done.returncode:
        raise InputError(f"pip could not download {', '.join(pinned)}:\n{done.stderr.strip()}")


def requirement(package: str) -> str:
    """A package at its version of requirements.txt.

    Raises:
        InputError: where that does not name it.
    """
    found = re.search(rf"^{re.escape(package)}==[^\s;]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    if found is None:
        raise InputError(f"--also {package}: requirements.txt does not name it")
    return found[0]


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())

"""What the benchmarks of speed share: images, works that take turns, medians with their range, a file of the result."""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.splits import Splits
from cfamc_ray.study.environment import environment
from cfamc_ray.trial import device_name

BATCH = {"cpu": 16, "cuda": 100}
"""Images of a minibatch."""


def small_set(images: int) -> Splits:
    """Random images, none to judge by."""
    pixels_NCHW = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    nothing = LabelledImages(pixels_NCHW[:0], torch.zeros(0, dtype=torch.int64))
    return Splits(ImageSubset(pixels_NCHW, torch.arange(images)), nothing, nothing, classes=10)


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Options that all of them have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options


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


def in_turns(
    works: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each work, repeat by repeat, so that a change of the machine's load meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-warm_ups, repeats):
        for name, work in works.items():
            taken = seconds_of(work, device)
            if repeat >= 0:
                seconds[name].append(taken)
    return seconds


class Apart:
    """An object in a process of its own, whose methods are called by name: settings of one process stay there.

    Args:
        kind: its class.
        arguments: of the constructor; they are pickled.
    """

    def __init__(self, kind: Callable[..., object], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, kind, arguments))
        self._process.start()
        other.close()

    def __call__(self, method: str) -> Any:
        """What the method returns, once the device has finished its work."""
        self._connection.send(method)
        return self._connection.recv()

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, kind: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    served = kind(*arguments)
    with suppress(EOFError):
        while True:
            answer = getattr(served, connection.recv())()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            connection.send(answer)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Median and range of the ratios within each repeat."""
    return summary([one / other for one, other in zip(numerators, denominators, strict=True)])


def report(found: Mapping[str, Any], device: torch.device, file: Path | None) -> None:
    """Print the result with hardware, versions and date, and write it to a file."""
    text = json.dumps({**found, "device": device_name(device), "environment": environment()}, indent=1) + "\n"
    if file is not None:
        file.write_text(text)
    print(text, end="")

"""What the benchmarks of speed share: options, processes, medians with their range, a file of the result."""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from cfamc_ray.store.environment import environment
from cfamc_ray.training.precision import device_name

BATCH = {"cpu": 16, "cuda": 100}
"""Images of a minibatch."""
INSTRUCTIONS = ("cpu_name", "avx2", "avx512_f", "avx512_bf16", "amx_bf16")


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Options that all of them have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return options


class Apart:
    """An object in a process of its own, whose methods are called by name: settings of one process stay there.

    Args:
        kind: its class.
        arguments: of the constructor; they are pickled.
    """

    def __init__(self, kind: Callable[..., object], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cfamc_ray.training.trial"])  # imported once for all processes: 10 s on one GPU
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


def processor() -> dict[str, Any]:
    """Name of the CPU and the instructions that its matrix products can use; nothing where torch cannot tell."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {name: capabilities[name] for name in INSTRUCTIONS if name in capabilities}


def report(found: Mapping[str, Any], device: torch.device, file: Path | None) -> None:
    """Print the result with hardware, versions and date, and write it to a file."""
    hardware = {"device": device_name(device), "processor": processor()}
    text = json.dumps({**found, **hardware, "environment": environment()}, indent=1) + "\n"
    if file is not None:
        file.write_text(text)
    print(text, end="")

"""The named phases of a training step: marks in a profiler's trace, whose seconds can be summed."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.profiler import record_function

Phase = Literal["crops", "forward", "loss", "backward", "optimizer", "perturbation"]
Seconds = dict[str, float]

_timed: list[tuple[torch.device, Seconds]] = []
"""Device and dictionary of seconds of each active `timed_phases`."""


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Mark the enclosed code as a phase, at a cost of microseconds."""
    with record_function(name):
        started = [now(device) for device, _ in _timed]
        yield
        for (device, seconds), start in zip(_timed, started, strict=True):
            seconds[name] += now(device) - start


@contextmanager
def timed_phases(device: torch.device) -> Iterator[Seconds]:
    """Sum the seconds of each phase in the enclosed code; on a GPU each phase is awaited, so that none overlap.

    Args:
        device: device that computes the phases.
    """
    seconds: Seconds = defaultdict(float)
    _timed.append((device, seconds))
    try:
        yield seconds
    finally:
        _timed.pop()


def timing() -> bool:
    """Whether a `timed_phases` is active."""
    return bool(_timed)


def now(device: torch.device) -> float:
    """Seconds of a clock, after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

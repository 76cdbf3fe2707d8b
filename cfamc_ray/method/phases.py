"""The phases of a training step by name: marks in a profiler's trace, whose seconds can be added up."""

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
"""Where the seconds of each `timed_phases` go."""


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Mark what is inside, at a cost of microseconds."""
    with record_function(name):
        started = [now(device) for device, _ in _timed]
        yield
        for (device, seconds), start in zip(_timed, started, strict=True):
            seconds[name] += now(device) - start


@contextmanager
def timed_phases(device: torch.device) -> Iterator[Seconds]:
    """Seconds by phase of what is inside, added up; on a GPU each phase is waited for, so that none overlap.

    Args:
        device: that computes them.
    """
    seconds: Seconds = defaultdict(float)
    _timed.append((device, seconds))
    try:
        yield seconds
    finally:
        _timed.pop()


def timing() -> bool:
    """Whether phases are timed at the moment."""
    return bool(_timed)


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

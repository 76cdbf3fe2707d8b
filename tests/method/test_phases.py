"""The seconds of a training step by phase."""

import time

import torch
from torch.profiler import ProfilerActivity, profile

from cfamc_ray.method.phases import phase, timed_phases

CPU = torch.device("cpu")


def test_seconds_of_a_phase_add_up() -> None:
    with timed_phases(CPU) as seconds:
        for _ in range(2):
            with phase("crops"):
                time.sleep(0.02)
        with phase("loss"):
            pass
    assert 0.04 <= seconds["crops"] < 1
    assert seconds["loss"] < seconds["crops"]
    assert set(seconds) == {"crops", "loss"}


def test_nothing_is_added_outside() -> None:
    with timed_phases(CPU) as seconds:
        pass
    with phase("crops"):
        pass
    assert seconds == {}


def test_phases_have_names_in_a_profile() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler, phase("backward"):
        torch.ones(2) + 1
    assert "backward" in {event.key for event in profiler.key_averages()}

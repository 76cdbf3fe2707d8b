import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from cfamc_ray.training.allocator import CONTEXT_BYTES, gpu_bytes, use_device

PROGRAM = """
import resource, torch
from pathlib import Path
from cfamc_ray.training.allocator import keep_freed_memory, release_freed_memory

MEGABYTES = 64

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

def faults_of_ten_blocks():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(MEGABYTES << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults_of_ten_blocks()
keep_freed_memory()
for _ in range(3):  # aligned blocks need some room around them before they fit into what others left
    faults_of_ten_blocks()
kept, full = faults_of_ten_blocks(), resident()
release_freed_memory()
print(default, kept, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_blocks_are_reused_until_they_are_released() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    default, kept, released = map(float, ran.stdout.split())
    assert kept < default / 10
    assert released > 60, "the megabytes of a block went back to the kernel"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What CUDA is told, of a machine with GPUs of 80 GiB."""
    told: list[object] = []
    monkeypatch.setattr("torch.cuda.set_device", told.append)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda *limit: told.append(limit))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    return told


@pytest.mark.parametrize(
    ("device", "share", "expected"),
    [
        ("cpu", 0.0, []),
        ("cuda", 1.0, [0]),
        ("cuda", 0.0, [0]),
        ("cuda:3", 1.0, [3]),
        ("cuda", 0.5, [0, (39 / 80, 0)]),
        ("cuda:1", 0.25, [1, (19 / 80, 1)]),
    ],
)
def test_a_gpu_becomes_the_current_one_and_a_shared_one_is_limited(
    told: list[object], device: str, share: float, expected: list[object]
) -> None:
    use_device(torch.device(device), share)
    assert told == expected


def test_those_who_share_a_gpu_fit_into_it_together(told: list[object]) -> None:
    for count in (1, 2, 7, 40):
        assert count * (gpu_bytes(1 / count) + CONTEXT_BYTES) == pytest.approx(80 * 2**30)
    assert gpu_bytes(1 / 100) == 0.4 * 2**30, "not less than half of a share"

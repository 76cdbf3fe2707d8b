import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")

PROGRAM = """
import resource, torch
from pathlib import Path
from cfamc_ray.allocator import keep_freed_memory, release_freed_memory

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


def test_freed_blocks_are_reused_until_they_are_released() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    default, kept, released = map(float, ran.stdout.split())
    assert kept < default / 10
    assert released > 60, "the megabytes of a block went back to the kernel"

"""What a machine lets a process use, by its size and by the limits of its cgroups, of either version."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cfamc_ray.host import machine
from cfamc_ray.host.machine import cores, memory_bytes

PAGES, PAGE, CORES = 2**21, 4096, 16
WHOLE = PAGES * PAGE
UNLIMITED_V1 = "9223372036854771712"

Limit = Callable[[str, Mapping[str, str]], None]


@pytest.fixture
def limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Lay out the cgroups of a process on a machine of 8 GiB and 16 cores."""
    sizes = {"SC_PAGE_SIZE": PAGE, "SC_PHYS_PAGES": PAGES}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(machine, "OF_PROCESS", tmp_path / "of process")

    def lay_out(of_process: str, files: Mapping[str, str]) -> None:
        (tmp_path / "of process").write_text(of_process)
        for name, text in files.items():
            path = tmp_path / "cgroups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return lay_out


V2 = "0::/jobs/mine\n"
V1 = "12:cpuset:/elsewhere\n9:cpu,cpuacct:/jobs/mine\n4:memory:/jobs/mine\n1:name=systemd:/user.slice\n0::/user.slice\n"


@pytest.mark.parametrize(
    ("of_process", "files", "expected"),
    [
        (V2, {}, WHOLE),
        (V2, {"jobs/mine/memory.max": "max"}, WHOLE),
        (V2, {"jobs/mine/memory.max": "1000000"}, 1_000_000),
        (V2, {"jobs/mine/memory.max": str(2 * WHOLE)}, WHOLE),
        (V2, {"jobs/mine/memory.max": "max", "jobs/memory.max": "2000000"}, 2_000_000),
        (V2, {"jobs/mine/memory.max": "3000000", "jobs/memory.max": "2000000"}, 2_000_000),
        (V2, {"jobs/mine/memory.max": "1000000", "jobs/memory.max": "2000000"}, 1_000_000),
        (V2, {"jobs/mine/deeper/memory.max": "1000", "jobs/others/memory.max": "1000"}, WHOLE),
        (V2, {"memory.max": "4000000"}, 4_000_000),  # what a container sees as its root
        ("0::/\n", {"memory.max": "4000000"}, 4_000_000),
        (V2, {"jobs/mine/memory.max": ""}, WHOLE),
        (V2, {"jobs/mine/memory.max": "a lot"}, WHOLE),
        (V1, {"memory/jobs/mine/memory.limit_in_bytes": UNLIMITED_V1}, WHOLE),
        (V1, {"memory/jobs/mine/memory.limit_in_bytes": "5000000"}, 5_000_000),
        (V1, {"memory/jobs/memory.limit_in_bytes": "6000000"}, 6_000_000),
        (V1, {"memory/memory.limit_in_bytes": "7000000"}, 7_000_000),  # a container whose group has no folder there
        (V1, {"cpu/jobs/mine/memory.limit_in_bytes": "5000000", "memory/elsewhere/memory.limit_in_bytes": "1"}, WHOLE),
        ("", {"memory.max": "1000"}, WHOLE),
        ("0\nnonsense\n::\n", {}, WHOLE),
        (f"{V1}0::/jobs/mine\n", {"jobs/mine/memory.max": "8000000"}, 8_000_000),
    ],
)
def test_memory_is_the_machine_s_or_the_smallest_limit(
    limit: Limit, of_process: str, files: Mapping[str, str], expected: int
) -> None:
    limit(of_process, files)
    assert memory_bytes() == expected


@pytest.mark.parametrize(
    ("of_process", "files", "expected"),
    [
        (V2, {}, CORES),
        (V2, {"jobs/mine/cpu.max": "max 100000"}, CORES),
        (V2, {"jobs/mine/cpu.max": "400000 100000"}, 4),
        (V2, {"jobs/mine/cpu.max": "399999 100000"}, 3),
        (V2, {"jobs/mine/cpu.max": "50000 100000"}, 1),
        (V2, {"jobs/mine/cpu.max": "9900000 100000"}, CORES),
        (V2, {"jobs/mine/cpu.max": "400000 100000", "jobs/cpu.max": "200000 100000"}, 2),
        (V2, {"cpu.max": "600000 100000"}, 6),
        (V2, {"jobs/mine/cpu.max": "400000"}, CORES),
        (V2, {"jobs/mine/cpu.max": "400000 0"}, CORES),
        (V1, {"cpu/jobs/mine/cpu.cfs_quota_us": "-1", "cpu/jobs/mine/cpu.cfs_period_us": "100000"}, CORES),
        (V1, {"cpu/jobs/mine/cpu.cfs_quota_us": "300000", "cpu/jobs/mine/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/jobs/cpu.cfs_quota_us": "250000", "cpu/jobs/cpu.cfs_period_us": "50000"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/jobs/mine/cpu.cfs_quota_us": "300000"}, CORES),
        ("", {"cpu.max": "100000 100000"}, CORES),
    ],
)
def test_cores_are_those_of_the_affinity_or_the_smallest_quota(
    limit: Limit, of_process: str, files: Mapping[str, str], expected: int
) -> None:
    limit(of_process, files)
    assert cores() == expected


def test_cores_that_others_were_given_do_not_count(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(V2, {"jobs/mine/cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7})
    assert cores() == 2


def test_without_cgroups_the_machine_counts(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (memory_bytes(), cores()) == (WHOLE, CORES)  # there is not even a list of the process's groups
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1

"""The benchmark of photographs, run at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

IMAGES = 400


def test_it_measures_every_part_once_and_resumes(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.large_images", "--json", str(file), "--folder", str(tmp_path)]
    options = ["--images", str(IMAGES), "--repeats", "1", "--width", "4", "--device", "cpu", "--remark", "a test"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(2):
        subprocess.run([*command, *options], cwd=Path(__file__).parents[2], env=environment, check=True)
        found.append(json.loads(file.read_text()))
    parts = ("decode", "cache", "resnet18", "resnet50", "evaluation")
    assert all(found[0][part] == found[1][part] for part in parts)
    (first, _) = found
    assert (first["images"], first["remark"]) == (IMAGES, "a test")
    assert 60_000 < first["decode"]["mean_file_bytes"] < 160_000, "as in ImageNet"
    assert first["decode"]["gain_of_reduced"]["median"] > 0
    assert first["cache"]["bytes"] == 2 * 128 + IMAGES * 3 * 224**2
    assert first["cache"]["read_peak_growth_bytes"] < first["cache"]["bytes"] / 2
    assert min(first[name]["images_per_s"]["median"] for name in ("resnet18", "resnet50")) > 0
    peaks = first["evaluation"]["peak_memory_bytes"]
    assert 0 < peaks["many"] < 2 * peaks["few"]

"""The benchmark of memory, run at a small size: chunks that are recomputed are what keeps the peak down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

FEW, MANY, IMAGES = 4, 16, 16


def test_the_peak_grows_least_with_the_views_where_chunks_are_recomputed(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    sizes = ["--views", str(MANY), str(FEW), "--batch-images", str(IMAGES), "--width", "16", "--repeats", "1"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--json", str(file), "--device", "cpu", *sizes],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    found = json.loads(file.read_text())
    assert list(found["by_views"]) == [str(FEW), str(MANY)]
    for views, cells in found["by_views"].items():
        assert cells["crops_and_delta_bytes"] == 2 * int(views) * IMAGES * 3 * 32 * 32 * 4
        for mode in ("all", "kept", "recomputed"):
            assert cells[mode]["peak_memory_bytes"] > cells["crops_and_delta_bytes"]
            assert cells[mode]["seconds_per_minibatch"]["min"] > 0
    assert not found["paper_encoder"]
    assert (found["encoder"]["width"], found["encoder"]["prefeature_width"]) == (16, 1024)
    growth = found["peak_growth"]
    assert growth["crops_and_delta_bytes"] == 2 * (MANY - FEW) * IMAGES * 3 * 32 * 32 * 4
    assert growth["all"]["bytes"] > 2 * growth["recomputed"]["bytes"]
    assert growth["kept"]["bytes"] > growth["recomputed"]["bytes"]

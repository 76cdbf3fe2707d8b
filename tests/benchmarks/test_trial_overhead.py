"""The benchmark of a trial's overhead, on a study of a few trials."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_a_trials_overhead_is_read_from_a_real_study_and_a_plain_function(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.trial_overhead", "--trials", "3", "--json", str(file)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    found = json.loads(file.read_text())
    overheads = found["seconds_of_each_trial"]
    assert found["trials"] == 3
    assert len(overheads) == 2, "the first trial does not count"
    assert found["seconds_per_trial"] == median(overheads)
    assert found["seconds_per_trial_range"] == [min(overheads), max(overheads)]
    assert min(overheads) > 0, "trials follow each other, and their work lies between their files"
    assert found["ratio"] == found["plain_function_seconds_per_trial"] / found["seconds_per_trial"]

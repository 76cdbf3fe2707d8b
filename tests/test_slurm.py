"""The job of docs/clusters/slurm.sh by its signals, on one machine: srun and scontrol are stand-ins for SLURM's."""

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import kill_marked, wait_until
from test_study_runs import SPACE

from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.store.epoch_rows import Row
from cfamc_ray.store.records import read_trials

SCRIPT = Path(__file__).parent.parent / "docs" / "clusters" / "slurm.sh"
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1 $2" = "show hostnames" ]; then printf 'localhost\\nlocalhost\\n'; else echo "$@" >> "$REQUEUED"; fi
"""
EPOCHS = 150
JOB = str(os.getpid())


def test_the_script_is_one_that_bash_takes() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)  # noqa: S607 (wherever it is)
    asked = re.findall(r"^#SBATCH --(.*)$", SCRIPT.read_text(), re.MULTILINE)
    assert {"signal=B:TERM@120", "requeue", "open-mode=append", "ntasks-per-node=1"} <= {*asked}


class Job:
    """The job on two nodes, started as SLURM starts it, the first time and after each requeue."""

    def __init__(self, folder: Path) -> None:
        self.study, self.log, self.mark = folder / "studies" / "mine", folder / "log", f"cfamc-test-{uuid.uuid4().hex}"
        self.requeued = folder / "requeued"
        (folder / "tiny.yaml").write_text(dump_yaml(SPACE))
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.environment = {
            **os.environ,
            **{"PATH": f"{folder}:{os.environ['PATH']}", "REQUEUED": str(self.requeued)},
            **{"SPACE": str(folder / "tiny.yaml"), "STUDY": str(self.study)},
            **{"BIN": str(Path(sys.executable).parent), "OMP_NUM_THREADS": "1", "CFAMC_TEST_MARK": self.mark},
            **{"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1"},
        }

    def run(self, *, send: int | None = None, after: int = 0) -> tuple[int, str]:
        """Exit code and output of the script; all that it has started ends with it, as with SLURM's job.

        A signal is sent to the script alone, once the study has a number of epochs.
        """
        words = ["bash", str(SCRIPT), "--trials", "1", "--set", f"pretraining.epochs={EPOCHS}"]
        with self.log.open("w") as log:
            process = subprocess.Popen(words, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            if send is not None:
                wait_until(lambda: process.poll() is not None or len(self.epochs()) >= after)
                process.send_signal(send)
            code = process.wait(timeout=100 if send else 600)  # SLURM kills 120 s after its signal
        finally:
            kill_marked(self.mark)
        return code, self.log.read_text()

    def epochs(self) -> list[Row]:
        return [row for record in read_trials(self.study) for row in record.rows]

    def requeues(self) -> list[str]:
        return self.requeued.read_text().splitlines() if self.requeued.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    yield Job(tmp_path)
    shutil.rmtree(f"/tmp/cfamc-{JOB}", ignore_errors=True)  # noqa: S108


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_job_that_is_stopped_keeps_everything_and_is_queued_again_until_the_study_is_over(job: Job) -> None:
    for stops, number in enumerate((signal.SIGTERM, signal.SIGUSR1), start=1):
        before = job.epochs()
        code, output = job.run(send=number, after=len(before) + 2)
        assert code == 143, output
        assert "Interrupted; nothing is lost" in output
        assert (job.study / "report" / "report.html").exists()
        assert job.epochs()[: len(before)] == before, "finished epochs are kept"
        assert len(before) + 2 <= len(job.epochs()) < EPOCHS
        assert job.requeues() == [f"requeue {JOB}"] * stops
    before = job.epochs()
    code, output = job.run()
    assert code == 0, output
    assert [record.status for record in read_trials(job.study)] == ["finished"]
    assert job.epochs()[: len(before)] == before
    assert len(job.requeues()) == 2, "a study that is over is not queued again"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_job_with_wrong_options_ends_and_is_not_queued_again(job: Job) -> None:
    job.environment["SPACE"] = "missing.yaml"
    code, output = job.run()
    assert code == 2, output
    assert "missing.yaml" in output
    assert job.requeues() == []

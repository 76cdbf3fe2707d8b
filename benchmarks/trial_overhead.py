"""Seconds that a trial of a study costs beside its training and evaluation, against a plain function of Ray Tune.

The real command runs the quickstart's search with very small trials on digits, one at a time, on the CPU. From the last
row of one trial to the last row of the next, by the times of their files, pass the training and evaluation that the row
states and the overhead. It is split where the next trial notes its point: before that Tune, the sampler and the
previous trial's end; after it images, encoder, TensorBoard and files. The first trial, which waits for its process,
does not count. The encoder is tiny: making and saving the paper's, of 34 million weights, takes longer. Then, in a
process of its own with Ray's own settings, Tune runs a function that only reports.

    python -m benchmarks.trial_overhead [--json FILE] [--trials 40]

Takes about 2 minutes on 2 cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.timing import report, summary
from cfamc_ray.store.records import TrialRecord, read_trials

NAME = "trial_overhead"
SETTINGS = (
    f"name={NAME}",
    "resources.trials_at_once=1",
    "data.pretrain_images=50",
    "data.probe_images=50",
    "data.validation_images=50",
    "encoder.width=4",
    "encoder.prefeature_width=16",
    "encoder.hidden_width=16",
    "encoder.embedding_width=8",
    "pretraining.batch_images=25",
    "pretraining.epochs=1",
    "evaluation.head.iterations=10",
    "evaluation.attack.steps=1",
    "evaluation.attacked_images=20",
)
"""What makes the quickstart's trials small; views, replays and ε are still searched."""
PLAIN_TRIALS = 3
ROOT = Path(__file__).resolve().parents[1]


class TrialTimes(NamedTuple):
    """When a trial noted its point and its last row, in seconds since 1970, and the work between them."""

    began: float
    ended: float
    work: float
    """Seconds of training and evaluation."""


def study_times(trials: int, folder: Path) -> tuple[list[TrialTimes], float, float]:
    """Of a study by the real command: its trials in their order, and when it was started and had ended."""
    words = ["cfamc_ray.tune", "--space", "quickstart.yaml", "--out", str(folder), "--trials", str(trials)]
    started = time.time()
    _run([*words, *(word for setting in SETTINGS for word in ("--set", setting))])
    ended = time.time()
    study = folder / NAME
    return [_times(study, record) for record in read_trials(study)], started, ended


def _times(study: Path, record: TrialRecord) -> TrialTimes:
    if record.status != "finished":
        sys.exit(f"{record.trial_id} {record.status}: {record.reason}")
    began, ended = (
        (study / record.trial_id / name).stat().st_mtime_ns / 1e9 for name in ("trial.json", "epochs.jsonl")
    )
    return TrialTimes(began, ended, record.value("train_seconds") + record.value("eval_seconds"))


def plain_function_seconds(trials: int, folder: Path) -> list[float]:
    """Seconds from one trial's report to the next, of a function that does nothing else."""
    file = folder / "plain.json"
    _run(["benchmarks.trial_overhead", "--trials", str(trials), "--plain", str(file)])
    return [after - before for before, after in pairwise(sorted(json.loads(file.read_text())))]


def _run_plain_function(trials: int, file: Path) -> None:
    """Write when each trial reported."""
    import ray  # noqa: PLC0415 (the study's own process shall not see it)
    from ray import tune  # noqa: PLC0415

    def trainable(_: dict[str, Any]) -> None:
        tune.report({"reported": time.time()})

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    results = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="plain", storage_path=str(file.parent), verbose=0),
    ).fit()
    file.write_text(json.dumps([result.metrics["reported"] for result in results]))


def _run(words: Sequence[str]) -> None:
    """A module as a program; what it says is shown only if it fails."""
    done = subprocess.run(  # noqa: S603 (our own words)
        [sys.executable, "-m", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{words[0]} ended with {done.returncode}:\n{done.stdout}")


def measure(trials: int) -> dict[str, Any]:
    """The study, then the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        times, started, ended = study_times(trials, Path(folder))
        plain = plain_function_seconds(PLAIN_TRIALS, Path(folder))
    between = [after.began - before.ended for before, after in pairwise(times)]
    within = [trial.ended - trial.began - trial.work for trial in times[1:]]
    seconds = [sum(parts) for parts in zip(between, within, strict=True)]
    ours, plainly = statistics.median(seconds), statistics.median(plain)
    return {
        "seconds_per_trial": ours,
        "seconds_per_trial_range": [min(seconds), max(seconds)],
        "seconds_between_trials": summary(between),
        "seconds_within_trial": summary(within),
        "seconds_of_each_trial": seconds,
        "seconds_of_work_per_trial": summary([trial.work for trial in times[1:]]),
        "trials": trials,
        "settings": list(SETTINGS),
        "seconds_to_first_trial": times[0].began - started,
        "seconds_of_first_trial": times[0].ended - times[0].began - times[0].work,
        "seconds_after_last_trial": ended - times[-1].ended,
        "plain_function_seconds_per_trial": plainly,
        "plain_function_range": [min(plain), max(plain)],
        "plain_function_trials": PLAIN_TRIALS,
        "ratio": plainly / ours,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options.add_argument("--trials", type=int, default=40, metavar="N", help="of the study, at least 2")
    options.add_argument("--plain", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.trials < 2:
        options.error("--trials: at least 2, for the first does not count")
    if arguments.plain is not None:
        _run_plain_function(arguments.trials, arguments.plain)
        return
    torch.set_num_threads(1)  # as in the trials, for the device's name
    report(measure(arguments.trials), torch.device("cpu"), arguments.json)


if __name__ == "__main__":
    main()

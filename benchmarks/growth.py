"""Seconds that a study's own work takes as its trials grow: a proposal, a database rebuilt, results printed again.

The studies are made up: random points of pareto.yaml with all their epochs, accuracies by a formula and noise; of ten
trials one was stopped half way and of forty one failed. Nothing is trained, all else is the package's own code:

- proposal: the next point with optuna.db beside the trials, refusals by budget and memory included, and the telling of
  how it ended; as far as the last trials go, for every repeat adds one.
- rebuild: the search made from the trials' folders after optuna.db was lost, reading included.
- reprint: `python -m cfamc_ray.tune` on the finished study, which writes front.csv, trials.csv and the whole report; in
  this process, so without the seconds that its imports take.

The baseline is the smallest study of the same run. Beside the seconds stand those of the processor, which other
programs on the machine prolong less.

    python -m benchmarks.growth [--json FILE] [--trials 20 100 300 1000] [--repeats 5]

Takes about 5 minutes on 2 cores.
"""

import argparse
import io
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import torch

from benchmarks.timing import parser, report, summary
from cfamc_ray import tune
from cfamc_ray.config.reading import find_space
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.search.search import Search
from cfamc_ray.search.storage import open_storage
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.epoch_rows import Row
from cfamc_ray.store.records import TrialFolder, read_trials, write_config

SPACE = "pareto.yaml"
SETTINGS = ("budget.plateau=null", "start_from=[]")
NOISE = 0.01
MEMORY_BYTES = 1e12
"""Of a worker: enough for all points, so that memory is predicted and nothing refused."""


class Times(NamedTuple):
    """What something took."""

    seconds: float
    processor_seconds: float


def made_up_study(folder: Path, trials: int, *, seed: int = 0) -> StudyConfig:
    """Write a study in which so many trials have ended.

    Args:
        folder: of the study; made if missing.
        trials: how many.
        seed: of points and noise.
    """
    config = read_study(find_space(SPACE), [f"budget.trials={trials}", *SETTINGS])
    source = random.Random(seed)  # noqa: S311 (no secret)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    for number in range(trials):
        point = _new_point(config, source)
        rows, trial_folder = _rows(config, point, source), TrialFolder(folder, number)
        trial_folder.open(point)
        half = rows[: math.ceil(len(rows) / 2)]
        if number % 40 == 39:
            trial_folder.write_rows(half[:-1])
            trial_folder.close("failed", f"the loss is not finite in epoch {len(half)}")
        elif number % 10 == 9 and len(half) < len(rows):
            trial_folder.write_rows(half)
            trial_folder.close("stopped", "fell behind after 0.5 of its schedule")
        else:
            trial_folder.write_rows(rows)
    return config


def _new_point(config: StudyConfig, source: random.Random) -> Point:
    while True:
        point = SearchSpace(config).draw(source)
        if SearchSpace(config).admits(point):
            return point


def _rows(config: StudyConfig, point: Point, source: random.Random) -> list[Row]:
    """Accuracies that more compute raises and ε trades for each other; seconds and memory as the work has it."""
    trial = config.trial_at(point)
    work, epochs = training_work(trial), trial.pretraining.epochs
    effort, grey_levels = math.log10(trial.crop_passes) - 4, 255 * max(trial.perturbation.radii(trial.crops.views))
    clean = 0.3 + 0.08 * effort - 0.012 * grey_levels
    robust = 0.1 + 0.03 * effort + 0.02 * grey_levels - 0.0009 * grey_levels**2
    return [
        {
            "epoch": epoch,
            "done": epoch == epochs,
            "clean_accuracy": _accuracy(clean, epoch / epochs, source),
            "robust_accuracy": _accuracy(robust, epoch / epochs, source),
            "crop_passes": trial.crop_passes_per_epoch * epoch,
            "flops": work.flops * epoch / epochs,
            "train_seconds": work.flops * epoch / epochs / 1e14,
            "eval_seconds": 2.0 * epoch,
            "overhead_seconds": 0.1 * epoch,
            "peak_memory_bytes": 1e8 + 4 * work.kept,
            "validation_images": trial.data.validation_images,
            "attacked_images": trial.evaluation.attacked_images,
        }
        for epoch in range(1, epochs + 1)
    ]


def _accuracy(final: float, share: float, source: random.Random) -> float:
    return min(max((0.5 + 0.5 * share) * final + source.gauss(0, NOISE), 0.0), 1.0)


def _search(folder: Path, config: StudyConfig) -> Search:
    return Search(config, open_storage(folder), read_trials(folder), work_of=training_work, memory_bytes=MEMORY_BYTES)


def rebuilds(folder: Path, config: StudyConfig, repeats: int) -> list[Times]:
    """Of making the search without its database."""
    times: list[Times] = []
    for _ in range(repeats):
        (folder / "optuna.db").unlink(missing_ok=True)
        with _timed(times):
            _search(folder, config)
    return times


def proposals(folder: Path, config: StudyConfig, repeats: int) -> list[Times]:
    """Of a proposal and of telling how its trial ended; the first, which imports and counts FLOPs, is left out."""
    times: list[Times] = []
    longer = config.model_copy(update={"budget": config.budget.model_copy(update={"trials": 10**6})})
    search = _search(folder, longer)
    ended = next(record for record in search.records.values() if record.status == "finished")
    for _ in range(repeats + 1):
        with _timed(times):
            proposal = search.suggest()
            assert proposal is not None
            search.ended(replace(ended, number=proposal.number, point=proposal.point))
    return times[1:]


def reprints(folder: Path, config: StudyConfig, repeats: int) -> list[Times]:
    """Of the command on the finished study; the first, which imports what draws, is left out."""
    times: list[Times] = []
    settings = [word for setting in (f"name={folder.name}", *SETTINGS) for word in ("--set", setting)]
    words = ["--space", SPACE, "--out", str(folder.parent), "--trials", str(config.budget.trials), *settings]
    write_config(folder, config.model_copy(update={"name": folder.name}))
    for _ in range(repeats + 1):
        with redirect_stdout(io.StringIO()) as said, _timed(times):
            code = tune.main(words)
        assert code == 0, said.getvalue()
    return times[1:]


@contextmanager
def _timed(times: list[Times]) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    times.append(Times(time.perf_counter() - wall, time.process_time() - processor))


def measure(sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Of each kind and size median and range; by how much the largest study's median exceeds the smallest's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {"rebuild": rebuilds, "reprint": reprints, "proposal": proposals}
    found: dict[str, dict[int, list[Times]]] = {kind: {} for kind in kinds}
    with tempfile.TemporaryDirectory() as parent:
        for trials in sorted(sizes):
            folder = Path(parent) / f"growth_{trials}"
            config = made_up_study(folder, trials)
            for kind, times_of in kinds.items():
                found[kind][trials] = times_of(folder, config, repeats)
                print(f"{kind:10} {trials:6} trials {found[kind][trials]}", file=sys.stderr, flush=True)
    return {"space": SPACE, "repeats": repeats} | {kind: summarise(by_size) for kind, by_size in found.items()}


def summarise(by_size: Mapping[int, Sequence[Times]]) -> dict[str, Any]:
    """Median and range of each size, and the largest study's medians over the smallest's."""
    summaries = {
        trials: {name: summary([getattr(one, name) for one in times]) for name in Times._fields}
        for trials, times in by_size.items()
    }
    first, last = summaries[min(summaries)], summaries[max(summaries)]
    grown = {name: last[name]["median"] / first[name]["median"] for name in Times._fields}
    return {str(trials): found for trials, found in summaries.items()} | {"grown": grown}


def main() -> None:
    options: argparse.ArgumentParser = parser(__doc__, repeats=5)
    options.add_argument("--trials", type=int, nargs="+", default=[20, 100, 300, 1000], metavar="N")
    arguments = options.parse_args()
    if min(arguments.trials) < 2:
        options.error("--trials: at least 2, of which one finishes")
    torch.set_num_threads(1)
    report(measure(arguments.trials, arguments.repeats), torch.device("cpu"), arguments.json)


if __name__ == "__main__":
    main()

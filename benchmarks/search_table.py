"""A table of real trials for searches to race on: every point of search_table.yaml, trained with two seeds.

    CFAMC_DATA=FOLDER python -m benchmarks.search_table [--part 1/2]     # train what is missing

FOLDER holds cifar10.npz. Each trial trains on one thread and appends its learning curve to search_table.jsonl.gz, so
the script can be stopped and started again, and several parts can run side by side. One core needs about two hours.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.recorded import add_sitting_options, append, missing, read
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import load_splits
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.trial import Trial

HERE = Path(__file__).parent
TABLE = HERE / "search_table.jsonl.gz"
SEEDS = (0, 1)
COLUMNS = ("epoch", "clean_accuracy", "robust_accuracy", "crop_passes", "flops", "train_seconds", "eval_seconds")

Curve = list[dict[str, float]]
"""One row of `COLUMNS` per epoch."""


@cache
def table_study() -> StudyConfig:
    """The space whose grid is the table."""
    return read_study(HERE / "search_table.yaml")


def cells() -> Iterator[tuple[int, dict[str, Any]]]:
    """Seed and point of every trial, seed by seed, points shuffled: a table cut short is a fair sample."""
    points = list(SearchSpace(table_study()).points())
    random.Random(0).shuffle(points)  # noqa: S311 (no secret)
    return ((seed, point) for seed in SEEDS for point in points)


def point_key(point: Mapping[str, Any]) -> str:
    """A point as a name that is equal for equal points alone."""
    return json.dumps(dict(point), sort_keys=True)


def read_table(path: Path = TABLE) -> dict[tuple[int, str], Curve]:
    """The recorded curves by seed and `point_key`."""
    return {
        (cell["seed"], point_key(cell["point"])): [dict(zip(COLUMNS, row, strict=True)) for row in cell["rows"]]
        for cell in read(path)
    }


def main() -> None:
    """Train what the table misses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sitting_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    study = table_study()
    splits = load_splits(study.trial.data)
    known = read_table()
    for seed, point in missing(cells(), lambda cell: (cell[0], point_key(cell[1])) in known, options):
        trial = Trial(study.trial_at({**point, "seed": seed}), splits)
        shown = [[round(getattr(row, name), 4) for name in COLUMNS] for row in trial]
        append(TABLE, {"seed": seed, "point": dict(point), "rows": shown})
        last = trial.rows[-1]
        accuracies = f"clean {last.clean_accuracy:.1%}, robust {last.robust_accuracy:.1%}"
        print(f"seed {seed} {point}: {accuracies}", flush=True)


if __name__ == "__main__":
    main()

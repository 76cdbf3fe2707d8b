"""A table of real trials with operating points: Sobol points of sobol_table.yaml, trained with several seeds.

    CFAMC_DATA=FOLDER python -m benchmarks.sobol_table [--width 8] [--seeds 2] [--points 128] [--at-cap 0.75]
        [--part 1/2] [--minutes 90]
    CFAMC_DATA=FOLDER python -m benchmarks.sobol_table --untrained

FOLDER holds cifar10.npz. Points are those of a scrambled Sobol sequence that meet the space's constraint and take at
least `--at-cap` of its crop passes; 0 takes them all. Each trial trains on one thread. What was measured up to four
times during its epochs, and at their end, is appended to sobol_table.jsonl.gz, for each L2 strength of the probe. The
script can be stopped and started again, and several parts can run side by side; `--minutes` begins no further trial
after that time. `--untrained` prints what encoders hold that were never trained.
"""

import argparse
import math
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import ExperimentalWarning

from benchmarks.published_systems import measured_curve
from benchmarks.recorded import add_sitting_options, append, missing, read
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.data.splits import Splits, load_splits
from cfamc_ray.space.encoding import distributions
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.trainer import initial_encoder
from cfamc_ray.training.trial import Trial

HERE = Path(__file__).parent
TABLE = HERE / "sobol_table.jsonl.gz"
COSTS = ("crop_passes", "flops", "train_seconds", "eval_seconds")
ACCURACIES = ("l2", "clean_accuracy", "robust_accuracy")


@cache
def sobol_study(width: int) -> StudyConfig:
    """The space, with encoders of a width."""
    return read_study(HERE / "sobol_table.yaml", [f"encoder.width={width}"])


def sobol_points(study: StudyConfig, at_cap: float) -> Iterator[Point]:
    """The Sobol points that meet the constraints and take at least a share of the largest number of crop passes."""
    space, searched = SearchSpace(study), distributions(study.space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        source = optuna.create_study(sampler=optuna.samplers.QMCSampler(scramble=True, seed=0))
    least = at_cap * 32_000
    while True:
        point = source.ask(searched).params
        trial = space.trial_if_admitted(point)
        if trial is not None and trial.crop_passes >= least:
            yield point


def cells(study: StudyConfig, *, points: int, seeds: int, at_cap: float) -> Iterator[tuple[int, Point]]:
    """Seed and point of every trial; all seeds of a point follow each other, so a table cut short is complete."""
    every = sobol_points(study, at_cap)
    return ((seed, point) for point in (next(every) for _ in range(points)) for seed in range(seeds))


def measured(row: TrialMetrics) -> dict[str, Any]:
    """What the table keeps of an epoch."""
    return {
        "epoch": row.epoch,
        **{name: round(getattr(row, name), 2) for name in COSTS},
        "operating_points": [{name: round(point[name], 4) for name in ACCURACIES} for point in row.operating_points],
    }


def untrained(study: StudyConfig, seed: int, splits: Splits) -> list[dict[str, float]]:
    """Accuracies of an encoder with its initial weights and statistics."""
    config = study.trial_at({**next(sobol_points(study, 0)), "seed": seed})
    encoder = initial_encoder(config).eval()
    curve = measured_curve(encoder, splits, splits.validation, config=config.evaluation, seed=seed)
    return [{name: round(value, 4) for name, value in point.items()} for point in curve]


def key_of(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a recorded trial apart."""
    return cell["width"], cell["seed"], *sorted(cell["point"].items())


def main() -> None:
    """Train what the table misses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--at-cap", type=float, default=0.75, metavar="SHARE")
    add_sitting_options(parser)
    parser.add_argument("--untrained", action="store_true", help="of three seeds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = sobol_study(options.width)
    splits = load_splits(study.trial.data)
    if options.untrained:
        for seed in range(3):
            print(seed, untrained(study, seed, splits))
        return
    known = {key_of(cell) for cell in read(TABLE)}
    wanted = cells(study, points=options.points, seeds=options.seeds, at_cap=options.at_cap)
    named = ({"width": options.width, "seed": seed, "point": point} for seed, point in wanted)
    for cell in missing(named, lambda cell: key_of(cell) in known, options):
        every = math.ceil(cell["point"]["pretraining.epochs"] / 4)
        config = study.trial_at({**cell["point"], "seed": cell["seed"], "evaluation.every_epochs": every})
        rows = [measured(row) for row in Trial(config, splits) if row.operating_points]
        append(TABLE, cell | {"rows": rows})
        print(f"{cell}: {rows[-1]}", flush=True)


if __name__ == "__main__":
    main()

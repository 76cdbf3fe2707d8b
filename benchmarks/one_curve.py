"""How many trials of random search with one fixed probe equal a single trial with operating points?

    python -m benchmarks.one_curve [--study FOLDER] [--l2 0.01 0.1] [--orders 200] [--json FILE]

Trials are those of a finished study, or of sobol_table.jsonl.gz (run benchmarks/sobol_table.py first), which spread
over the space as random search's do. A study's trials are better than random ones, so they equal a curve sooner. For
each width and seed, and for each trial, other trials are drawn at random, each at one strength alone, until their
hypervolume reaches that of the one trial's curve. The strengths of `--l2` are that of the earlier default, 0.01, and
the one that is best for all trials together, 0.1, which a search does not know beforehand. Where all others together
do not reach it, their number plus one is counted, so the result is a lower bound. Hypervolumes begin at zero, or at the
worst clean accuracy of the table and zero robust accuracy, which counts only what a choice of trials decides.
"""

import argparse
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.recorded import read
from benchmarks.sobol_table import TABLE
from benchmarks.timing import report
from cfamc_ray.front.dominance import hypervolume
from cfamc_ray.store.records import read_trials

Point = tuple[float, float]
"""Clean and robust accuracy."""
Curve = Mapping[float, Point]
"""A trial's points by L2 strength."""
MAXIMIZE = ("maximize", "maximize")


def curve_of(row: Mapping[str, Any]) -> Curve:
    """The curve after an epoch."""
    return {point["l2"]: (point["clean_accuracy"], point["robust_accuracy"]) for point in row["operating_points"]}


def curves_of(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[Curve]]:
    """The curves of the table's trials after the last epoch, by width and seed."""
    found: dict[tuple[int, int], list[Curve]] = defaultdict(list)
    for cell in cells:
        found[cell["width"], cell["seed"]].append(curve_of(cell["rows"][-1]))
    return found


def trials_that_equal(curves: Sequence[Curve], l2: float, reference: Point, *, orders: int) -> list[float]:
    """For each trial the mean number of others at one strength whose hypervolume reaches that of its curve.

    Args:
        curves: of all trials.
        l2: the strength of the others.
        reference: of the hypervolume.
        orders: number of random orders of the others.
    """
    source = random.Random(0)  # noqa: S311 (no secret)
    found = []
    for place, curve in enumerate(curves):
        wanted = hypervolume([*curve.values()], reference, MAXIMIZE)
        others = [other[l2] for n, other in enumerate(curves) if n != place]
        counts = []
        for _ in range(orders):
            source.shuffle(others)
            reached = (n for n in range(len(others) + 1) if hypervolume(others[:n], reference, MAXIMIZE) >= wanted)
            counts.append(next(reached, len(others) + 1))
        found.append(statistics.mean(counts))
    return found


def summary(curves: Sequence[Curve], strengths: Sequence[float], *, orders: int) -> dict[str, Any]:
    """Quartiles over the trials, for each strength and both references."""
    worst = min(point[0] for curve in curves for point in curve.values())
    found: dict[str, Any] = {"trials": len(curves)}
    for l2 in strengths:
        of_strength = found[f"L2 {l2:g}"] = {}
        for name, reference in (("from zero", (0.0, 0.0)), ("from the worst clean accuracy", (worst, 0.0))):
            numbers = trials_that_equal(curves, l2, reference, orders=orders)
            of_strength[name] = {"quartiles": statistics.quantiles(numbers, n=4), "best trial": max(numbers)}
    return found


def main() -> None:
    """Count for each width and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--l2", type=float, nargs="+", default=[0.01, 0.1], help="strengths of the fixed probe")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--study", type=Path, metavar="FOLDER", help="a finished study, instead of the table")
    options = parser.parse_args()
    if options.study:
        finished = [record for record in read_trials(options.study) if record.status == "finished"]
        groups = {options.study.name: [curve_of(record.rows[-1]) for record in finished]}
    else:
        groups = {f"width {width}, seed {seed}": curves for (width, seed), curves in curves_of(read(TABLE)).items()}
    found = {
        name: summary(curves, options.l2, orders=options.orders)
        for name, curves in sorted(groups.items())
        if len(curves) > 2
    }
    report(found, torch.device("cpu"), options.json)


if __name__ == "__main__":
    main()

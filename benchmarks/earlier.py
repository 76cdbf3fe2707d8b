"""What an earlier study of the same space is worth to a search (`search.prior`, `search.proxy`).

    python -m benchmarks.earlier [--seeds 8] [--problems trade_off …] [--json FILE]

First, on real training: the 272 recorded trials of search_table.py (1,000 images of CIFAR-10, width 8) teach a model
about those of the recorded study cifar_small (4,000 images, width 16). Of cifar_small 0, 3, 6 or 12 trials are known,
and the model predicts the others; the error is the standard deviation of the difference, for which a constant offset
does not count. Without the earlier study the same model knows these trials alone.

Then, on the noisy test problems of samplers.py: the share of the true front's hypervolume after 6, 12, 20 and 40
evaluations, with and without an earlier study of 30 random points whose values are lower, and spread by 0.7 times as
much, in both objectives.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.samplers import NOISES, PROBLEMS, draw, race_of, row_of, run, scale_of
from benchmarks.search_table import read_table, table_study
from benchmarks.timing import report
from cfamc_ray.gaussian_process import Array, predict
from cfamc_ray.search.earlier import transferred, values_at
from cfamc_ray.space.encoding import encode
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import EarlierStudy
from cfamc_ray.store.records import TrialRecord, read_config, read_trials

RECORDED = Path(__file__).parent / "results" / "studies" / "cifar_small"
KNOWN = (0, 3, 6, 12)
DRAWS = 10
L2 = 0.01
"""Strength of the probe in the recorded table."""
TRIALS = 30
AFTER = (6, 12, 20, 40)
SHRUNK = 0.7


def recorded_table() -> EarlierStudy:
    """The trials of search_table.py as an earlier study."""
    records = [
        TrialRecord(number, json.loads(point), curve, "finished")
        for number, ((_, point), curve) in enumerate(read_table().items())
    ]
    return EarlierStudy("table", table_study(), records)


def errors_on_recorded() -> list[dict[str, Any]]:
    """Error of predicting the trials of cifar_small that are not known, with and without the table."""
    config = read_config(RECORDED)
    space, objectives = SearchSpace(config), config.objectives
    before = transferred(space, recorded_table())
    own = [record for record in read_trials(RECORDED) if record.status == "finished"]
    X_NF = np.array([encode(space.ranges, record.point) for record in own])
    Y_NK = np.array([values_at(record, objectives, [L2])[0] for record in own])
    X_EF = np.array([encode(space.ranges, point) for point, _ in before])
    Y_EK = np.array([record.values(objectives) for _, record in before])
    found = []
    for (k, name), number in product(enumerate(objectives), KNOWN):
        errors: dict[str, list[float]] = {"with": [], "without": []}
        for seed in range(DRAWS):
            order = np.random.default_rng(seed).permutation(len(own))
            known, others = order[:number], order[number:]
            if number:
                alone = predict(X_NF[known], Y_NK[known, k], X_NF[others])
                errors["without"].append(float(np.std(alone - Y_NK[others, k])))
            X = np.concatenate([_of_study(X_NF[known], 0), _of_study(X_EF, 1)])
            both = predict(X, np.concatenate([Y_NK[known, k], Y_EK[:, k]]), _of_study(X_NF[others], 0))
            errors["with"].append(float(np.std(both - Y_NK[others, k])))
        means = {name: statistics.mean(each) if each else None for name, each in errors.items()}
        found.append({"objective": name, "known": number, "spread": float(Y_NK[:, k].std()), **means})
    return found


def _of_study(X_NF: Array, number: int) -> Array:
    """The features with that of the earlier study."""
    return np.column_stack([X_NF, np.full(len(X_NF), float(number))])


def earlier_of(problem: str, noise: float, seed: int) -> EarlierStudy:
    """Random points of a problem, whose values are lower and spread less."""
    made, scale, source = PROBLEMS[problem], scale_of(problem), np.random.default_rng((seed, 1))
    records = []
    for number in range(TRIALS):
        point = {key: draw(written, source) for key, written in made.space.items()}
        values = SHRUNK * np.array(made.values([*point.values()])) - scale.spread
        values += noise * scale.spread * source.normal(size=2)
        records.append(TrialRecord(number, point, [row_of(values)], "finished"))
    return EarlierStudy("before", race_of("random", problem, seed), records)


def shares(known: bool, problem: str, noise: float, seed: int) -> list[float]:
    """Share of the true hypervolume after each evaluation of `front`."""
    return run("front", problem, noise, seed, [earlier_of(problem, noise, seed)] if known else [])[0]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Mean shares without and with the earlier study, as Markdown."""
    lines = [
        f"| problem, noise | {' | '.join(f'after {number}' for number in AFTER)} |",
        "|---" * (len(AFTER) + 1) + "|",
    ]
    for problem, noise in dict.fromkeys((row["problem"], row["noise"]) for row in found):
        cells = []
        for number in AFTER:
            means = [
                statistics.mean(
                    row["shares"][number - 1]
                    for row in found
                    if (row["problem"], row["noise"], row["earlier"]) == (problem, noise, known)
                )
                for known in (False, True)
            ]
            cells.append("{:.2f} → {:.2f}".format(*means))
        lines.append(f"| {problem}, {noise:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="of the test problems; 0: the recorded trials alone")
    parser.add_argument("--problems", nargs="+", default=["trade_off", "zdt1", "dtlz2"], choices=list(PROBLEMS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    recorded = errors_on_recorded()
    for row in recorded:
        errors = ["–" if row[name] is None else f"{row[name]:.3f}" for name in ("without", "with", "spread")]
        print("{objective}, {known} known: error {} without and {} with it, spread {}".format(*errors, **row))
    cases = list(product((False, True), options.problems, NOISES, range(options.seeds)))
    with ProcessPoolExecutor(options.processes) as pool:
        results = list(pool.map(shares, *zip(*cases, strict=True))) if cases else []
    raced = [
        {"earlier": known, "problem": problem, "noise": noise, "seed": seed, "shares": each}
        for (known, problem, noise, seed), each in zip(cases, results, strict=True)
    ]
    if raced:
        print(table(raced))
    if options.json:
        report({"recorded": recorded, "raced": raced}, torch.device("cpu"), options.json)


if __name__ == "__main__":
    main()

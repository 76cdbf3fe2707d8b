"""Is a front better, and less optimistic, if a model of all trials chooses it rather than the measured values?

    python -m benchmarks.expectation [--draws 64] [--json FILE]

Real trials: search_table.jsonl.gz holds 136 points of CIFAR-10, each trained with two seeds. Random subsets of them are
the trials of a study with one seed; the other seed, which neither choice has seen, says what the chosen points are
worth. Of each choice the table shows the hypervolume that its front has with the other seed, and by how much the best
clean and the best robust accuracy, as the choice gives them, exceed that of the other seed (optimism). Draws overlap,
and there are two seeds: intervals are over subsets of this one table, and the means are also given for each seen seed.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.search_table import SEEDS, read_table, table_study
from benchmarks.timing import report
from cfamc_ray.front.confirmation import summarize
from cfamc_ray.front.dominance import hypervolume
from cfamc_ray.front.expectation import expected
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord

TRIALS = (12, 24, 48, 96)
RESULTS = ("clean_accuracy", "robust_accuracy")


def read_records() -> list[list[TrialRecord]]:
    """The finished trials with each seed, in the same order; only points that were trained with all seeds."""
    table = read_table()
    keys = [key for seed, key in table if seed == 0 and all((other, key) in table for other in SEEDS)]
    return [
        [
            TrialRecord(number, json.loads(key), [dict(row) for row in table[seed, key]], "finished")
            for number, key in enumerate(keys)
        ]
        for seed in SEEDS
    ]


def judge(chosen: Sequence[TrialRecord], other: Sequence[TrialRecord], reference: Sequence[float]) -> dict[str, float]:
    """What a choice is worth with the other seed.

    Args:
        chosen: finished trials with the values by which the front is chosen.
        other: all trials with the other seed.
        reference: of the hypervolume.
    """
    front = find_front(table_study(), chosen).members
    found = {
        "hypervolume": hypervolume([other[one.number].values(RESULTS) for one in front], reference, ["maximize"] * 2)
    }
    for name in RESULTS:
        best = max(chosen, key=lambda one: one.value(name))
        found[f"{name}_optimism"] = best.value(name) - other[best.number].value(name)
    errors = [one.value(name) - other[one.number].value(name) for one in chosen for name in RESULTS]
    return found | {"error": float(np.sqrt(np.mean(np.square(errors))))}


def compare(by_seed: Sequence[Sequence[TrialRecord]], number: int, draw: int) -> dict[str, dict[str, float]]:
    """Both choices from the same random trials."""
    seen, other = by_seed[draw % 2], by_seed[1 - draw % 2]
    reference = [min(one.value(name) for trials in by_seed for one in trials) for name in RESULTS]
    trials = random.Random(draw).sample(list(seen), number)  # noqa: S311 (no secret)
    believed = expected(table_study(), trials)
    return {"measured": judge(trials, other, reference), "expected": judge(believed, other, reference)}


def summary(pairs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Means of both choices, and the mean of their paired differences with its 95 % interval."""
    found: dict[str, Any] = {}
    for name in pairs[0]["measured"]:
        # The draws take turns between the seeds.
        by_seen = [
            [float(np.mean([pair[choice][name] for pair in pairs[seed :: len(SEEDS)]])) for seed in SEEDS]
            for choice in ("measured", "expected")
        ]
        measured, believed = (np.array([pair[choice][name] for pair in pairs]) for choice in ("measured", "expected"))
        _, change, interval = summarize([*(believed - measured)])
        found[name] = {
            "measured": float(measured.mean()),
            "expected": float(believed.mean()),
            "change": [change, *interval],
            "by_seen_seed": dict(zip(("measured", "expected"), by_seen, strict=True)),
        }
    return found


def main() -> None:
    """Compare for several numbers of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    by_seed = read_records()
    found = {
        str(number): summary([compare(by_seed, number, draw) for draw in range(options.draws)]) for number in TRIALS
    }
    report({"draws": options.draws, "by_trials": found}, torch.device("cpu"), options.json)


if __name__ == "__main__":
    main()

"""Which sampler finds the front of noisy test problems with few evaluations?

    python -m benchmarks.samplers [--seeds 20] [--samplers front gp …] [--problems zdt1 …] [--json FILE]

Every search is the package's own code with Optuna's storage in memory; in place of training, a trial's accuracies come
from a problem of five keys, plus Gaussian noise of 3 or 30 % of a random point's standard deviation. The measure is the
share of the true front's hypervolume that the noise-free values of the first 40 points hold, and the seconds of a
proposal. The reference is what 75 % of random points exceed in each objective. `trade_off` is smooth, with a whole
number and a choice among its keys; ZDT1 to 3 and DTLZ2 are those of Zitzler et al. 2000 and Deb et al. 2002.
"""

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from optuna.storages import InMemoryStorage

from benchmarks.timing import report
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.work import TrainingWork
from cfamc_ray.front.dominance import hypervolume
from cfamc_ray.search.search import Search
from cfamc_ray.store.earlier import EarlierStudy
from cfamc_ray.store.records import TrialRecord

EVALUATIONS = 40
NOISES = (0.03, 0.3)
OBJECTIVES = ("clean_accuracy", "robust_accuracy")
DIRECTIONS = ("maximize", "maximize")
KEYS = [f"crops.{name}_probability" for name in ("flip", "jitter", "grayscale", "blur", "solarize")]
FLOATS: dict[str, Any] = {key: {"float": [0.0, 1.0]} for key in KEYS}
MIXED: dict[str, Any] = {
    **dict(list(FLOATS.items())[:3]),
    "pretraining.replays": {"int": [1, 6], "log": True},
    "encoder.norm": {"choice": ["batch", "group"]},
}
Values = tuple[float, float]


class Problem(NamedTuple):
    """Two objectives, both to be maximised, of a point of a space."""

    space: Mapping[str, Any]
    values: Callable[[Sequence[Any]], Values]
    """Of the values of the space's keys, in their order."""
    front: Callable[[float], Sequence[Any]]
    """A point that contains the front, for a place on it from 0 to 1."""


def trade_off(x: Sequence[Any]) -> Values:
    """Two accuracies: the first key trades one for the other, the others have an optimum for both."""
    place, first, second, replays, norm = x
    loss = (first - 0.3) ** 2 + 0.5 * (second - 0.8) ** 2 + 0.1 * (math.log(replays / 3)) ** 2 + 0.1 * (norm == "group")
    return (1 - place**2) * math.exp(-loss), (1 - (1 - place) ** 2) * math.exp(-2 * loss)


def zdt(number: int, x: Sequence[float]) -> Values:
    """ZDT1, 2 or 3."""
    g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
    share = x[0] / g
    h = {1: 1 - math.sqrt(share), 2: 1 - share**2, 3: 1 - math.sqrt(share) - share * math.sin(10 * math.pi * x[0])}
    return -x[0], -g * h[number]


def dtlz2(x: Sequence[float]) -> Values:
    """DTLZ2 with two objectives: a quarter of a circle."""
    g = sum((value - 0.5) ** 2 for value in x[1:])
    return -(1 + g) * math.cos(x[0] * math.pi / 2), -(1 + g) * math.sin(x[0] * math.pi / 2)


PROBLEMS = {
    "trade_off": Problem(MIXED, trade_off, lambda place: (place, 0.3, 0.8, 3, "batch")),
    "zdt1": Problem(FLOATS, lambda x: zdt(1, x), lambda place: (place, 0, 0, 0, 0)),
    "zdt2": Problem(FLOATS, lambda x: zdt(2, x), lambda place: (place, 0, 0, 0, 0)),
    "zdt3": Problem(FLOATS, lambda x: zdt(3, x), lambda place: (place, 0, 0, 0, 0)),
    "dtlz2": Problem(FLOATS, dtlz2, lambda place: (place, 0.5, 0.5, 0.5, 0.5)),
}
SAMPLERS = ("random", "tpe", "nsga2", "gp", "front")


class Scale(NamedTuple):
    """What random points of a problem reach."""

    spread: np.ndarray
    """Standard deviation of each objective."""
    reference: list[float]
    whole: float
    """Hypervolume of the true front."""


@cache
def scale_of(problem: str) -> Scale:
    """Of 4,096 random points and 1,001 places on the front."""
    made = PROBLEMS[problem]
    source = np.random.default_rng(0)
    drawn = [[draw(written, source) for written in made.space.values()] for _ in range(4096)]
    values = np.array([made.values(x) for x in drawn])
    reference = np.quantile(values, 0.25, axis=0).tolist()
    front = [made.values(made.front(place)) for place in np.linspace(0, 1, 1001)]
    return Scale(values.std(axis=0), reference, hypervolume(front, reference, DIRECTIONS))


def draw(written: Mapping[str, Any], source: np.random.Generator) -> Any:
    """A random value of a range, uniform also where the search is logarithmic."""
    if "choice" in written:
        return written["choice"][source.integers(len(written["choice"]))]
    low, high = written.get("float") or written["int"]
    return float(source.uniform(low, high)) if "float" in written else int(source.integers(low, high + 1))


def race_of(sampler: str, problem: str, seed: int) -> StudyConfig:
    """The study that searches a problem."""
    return StudyConfig.model_validate(
        {
            "name": "race",
            "search": {"sampler": sampler, "seed": seed, **({} if sampler == "front" else {"startup_trials": 10})},
            "budget": {"trials": EVALUATIONS},
            "trial": {"pretraining": {"epochs": 1}},
            "space": PROBLEMS[problem].space,
        }
    )


def row_of(values: Iterable[float]) -> dict[str, Any]:
    """The only epoch of a trial."""
    costs = {"crop_passes": 1, "flops": 1.0, "train_seconds": 1.0, "eval_seconds": 0.0}
    return {"epoch": 1, "done": True, **costs, **dict(zip(OBJECTIVES, map(float, values), strict=True))}


def run(
    sampler: str, problem: str, noise: float, seed: int, earlier: Sequence[EarlierStudy] = ()
) -> tuple[list[float], float]:
    """Share of the true hypervolume after each evaluation, and seconds of a proposal (median of the last ten)."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    made, scale = PROBLEMS[problem], scale_of(problem)
    source = np.random.default_rng((seed, round(100 * noise)))
    search = Search(race_of(sampler, problem, seed), InMemoryStorage(), work_of=_no_work, earlier=earlier)
    truth: list[Values] = []
    shares: list[float] = []
    seconds: list[float] = []
    while True:
        began = time.perf_counter()
        proposal = search.suggest()
        if proposal is None:
            return shares, statistics.median(seconds[-10:])
        seconds.append(time.perf_counter() - began)
        values = made.values([proposal.point[key] for key in made.space])
        truth.append(values)
        seen = np.array(values) + noise * scale.spread * source.normal(size=2)
        search.ended(TrialRecord(proposal.number, proposal.point, [row_of(seen)], "finished"))
        shares.append(hypervolume(truth, scale.reference, DIRECTIONS) / scale.whole)


def _no_work(trial: object) -> TrainingWork:
    return TrainingWork(1.0, 1.0, 1.0, 1, 0.0, 0.0)


def table(found: Sequence[Mapping[str, Any]], samplers: Iterable[str]) -> str:
    """Mean share after all evaluations, with its standard error, and seconds, as Markdown."""
    samplers = list(samplers)
    lines = [f"| problem, noise | {' | '.join(samplers)} |", "|---" * (len(samplers) + 1) + "|"]
    for problem, noise in dict.fromkeys((row["problem"], row["noise"]) for row in found):
        cells = []
        for sampler in samplers:
            own = [
                row["shares"][-1]
                for row in found
                if (row["problem"], row["noise"], row["sampler"]) == (problem, noise, sampler)
            ]
            error = statistics.stdev(own) / math.sqrt(len(own)) if len(own) > 1 else math.nan
            cells.append(f"{statistics.mean(own):.3f} ± {error:.3f}")
        lines.append(f"| {problem}, {noise:.0%} | {' | '.join(cells)} |")
    seconds = [statistics.median(row["seconds"] for row in found if row["sampler"] == sampler) for sampler in samplers]
    return "\n".join([*lines, f"| seconds of a proposal | {' | '.join(f'{each:.2f}' for each in seconds)} |"])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--noises", nargs="+", type=float, default=list(NOISES))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cases = list(product(options.samplers, options.problems, options.noises, range(options.seeds)))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(run, *zip(*cases, strict=True)))
    found = [
        {"sampler": sampler, "problem": problem, "noise": noise, "seed": seed, "shares": shares, "seconds": seconds}
        for (sampler, problem, noise, seed), (shares, seconds) in zip(cases, results, strict=True)
    ]
    if options.json:
        report({"runs": found}, torch.device("cpu"), options.json)
    print(table(found, options.samplers))


if __name__ == "__main__":
    main()

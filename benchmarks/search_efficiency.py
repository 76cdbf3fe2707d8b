"""What a search spends until it has found the front, against others, on recorded trials and a simulated clock.

    python -m benchmarks.search_efficiency [--runs 24] [--json FILE]

Every search is the package's own code, with Optuna's storage in memory; a trial's epochs come from the table that
search_table.py recorded (136 points, 2 seeds, real CIFAR-10) instead of from training. Of each run the crop passes are
counted until the hypervolume of the finished points reaches 95 % of that of the whole table. Run i sees the curves of
seed i mod 2, but its points count with their means over both seeds: a lucky value is no find. The hypervolume's
reference is the worst value in the table, so that it measures what a search decides. `random_at_cap` draws among the
points that take all 32,000 crop passes alone, which hold all of that volume. `asha` is TPE with Ray Tune's own
single-objective rule on robust accuracy, `foreknown` what no search can be expected to beat.

With `--only`, the runs of other searches are those of the file that `--json` names, if it exists.
"""

import argparse
import heapq
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.storages import InMemoryStorage
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from benchmarks.search_table import SEEDS, Curve, point_key, read_table, table_study
from benchmarks.timing import report
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.front.dominance import hypervolume, pareto_front
from cfamc_ray.gaussian_process import LENGTHS
from cfamc_ray.search.search import Search
from cfamc_ray.space.encoding import encode
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason

Array = npt.NDArray[np.float64]
TARGET = 0.95
RESAMPLES = 2000
SEARCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "random": {"sampler": "random"},
    "random_at_cap": {"sampler": "random"},
    "tpe": {"sampler": "tpe", "startup_trials": 10},
    "nsga2": {"sampler": "nsga2", "startup_trials": 10},
    "asha": {"sampler": "tpe", "startup_trials": 10},
    "mo_asha": {"mo_asha": {"rungs": [0.5], "keep": 0.67}},
    "tpe_mo_asha": {"sampler": "tpe", "startup_trials": 10, "mo_asha": {"rungs": [0.5], "keep": 0.67}},
}
"""What differs from a study's defaults; TPE starts with as many random points as Optuna's default."""
AT_CAP = "crops.views * pretraining.replays * pretraining.epochs == 32"
"""Constraint of `random_at_cap`."""


@cache
def curves(seed: int) -> dict[str, Curve]:
    """The table of one seed, by point."""
    return {key: rows for (of, key), rows in read_table().items() if of == seed}


@cache
def truth() -> dict[str, tuple[float, ...]]:
    """Final objectives of every point, as means over the seeds."""
    ends = {seed: {key: rows[-1] for key, rows in curves(seed).items()} for seed in SEEDS}
    return {
        key: tuple(statistics.fmean(ends[seed][key][name] for seed in SEEDS) for name in table_study().objectives)
        for key in ends[SEEDS[0]]
    }


def volume(points: Iterable[str]) -> float:
    """Hypervolume of points by their true values, from the worst values in the table on."""
    directions = list(table_study().objectives.values())
    reference = [min(values) for values in zip(*truth().values(), strict=True)]
    values = np.array([truth()[key] for key in points]).reshape(-1, len(directions))
    return hypervolume(values, reference, directions)


def config_of(name: str, run: int) -> StudyConfig:
    """The table's space, searched by one of `SEARCHES`."""
    study = table_study()
    search = type(study.search).model_validate({**SEARCHES[name], "seed": run})
    if name != "random_at_cap":
        return study.model_copy(update={"search": search})
    tree = study.model_dump(mode="json") | {"search": search.model_dump(mode="json")}
    return StudyConfig.model_validate({**tree, "constraints": [*tree["constraints"], AT_CAP]})


def simulate(
    config: StudyConfig, table: Mapping[str, Curve], stops: Callable[[TrialRecord], bool]
) -> Iterator[list[TrialRecord]]:
    """Run a search on recorded trials; the records after every end of a trial.

    Args:
        config: of the study; its `trials_at_once` run side by side.
        table: the curves by point.
        stops: another rule that stops a trial after a row.
    """
    search = Search(config, InMemoryStorage(), work_of=training_work)
    clock: list[tuple[float, int]] = []
    free, now = config.resources.trials_at_once, 0.0
    while True:
        while free and (proposal := search.suggest()) is not None:
            first = table[point_key(proposal.point)][0]
            heapq.heappush(clock, (now + first["train_seconds"] + first["eval_seconds"], proposal.number))
            free -= 1
        if not clock:
            return
        now, number = heapq.heappop(clock)
        before = search.records[number]
        rows = table[point_key(before.point)]
        epoch = len(before.rows) + 1
        shown = [{**row, "done": row is rows[-1]} for row in rows[:epoch]]
        record = TrialRecord(number, before.point, shown, "finished" if epoch == len(rows) else "running")
        stopped = search.observe(record) or (StopReason("fell_behind", "stopped by ASHA") if stops(record) else None)
        if stopped and not record.ended:
            record = record.ended_by("stopped", stopped)
        if record.ended:
            search.ended(record)
            free += 1
            yield list(search.records.values())
        else:
            step = [rows[epoch][name] - rows[epoch - 1][name] for name in ("train_seconds", "eval_seconds")]
            heapq.heappush(clock, (now + sum(step), number))


def asha() -> Callable[[TrialRecord], bool]:
    """Ray Tune's own rule, on robust accuracy by epochs, halving from the first epoch on."""
    from ray.tune.schedulers.async_hyperband import _Bracket  # noqa: PLC0415 (slow to import)

    bracket = _Bracket(1, 8, 2, 0)

    def stops(record: TrialRecord) -> bool:
        trial = SimpleNamespace(trial_id=record.number)
        return bool(bracket.on_result(trial, len(record.rows), record.value("robust_accuracy")) == "STOP")

    return stops


def _reached(points: Iterable[str]) -> bool:
    return volume(points) >= TARGET * volume(truth())


def passes_to_target(name: str, run: int) -> float:
    """Crop passes until a run has reached the target; infinite where it never does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stops = asha() if name == "asha" else lambda record: False
    for records in simulate(config_of(name, run), curves(SEEDS[run % len(SEEDS)]), stops):
        if _reached(point_key(record.point) for record in records if record.status == "finished"):
            return math.fsum(record.value("crop_passes") for record in records if record.rows)
    return math.inf


def foreknown(orders: int) -> list[float]:
    """What a search would spend that knows every point's true value as well as all other points can tell it.

    A Gaussian process predicts each point from all the others; points are tried by non-dominated rank of these
    predictions, in random order within a rank. No search that learns from points it has tried can expect to do better.
    """
    study, keys = table_study(), list(truth())
    true_NK, directions = np.array([truth()[key] for key in keys]), list(study.objectives.values())
    places_NF = np.array([encode(study.space, json.loads(key)) for key in keys])
    ranks = _ranks(np.stack([_left_out(places_NF, column) for column in true_NK.T], axis=1), directions)
    passes = [curves(SEEDS[0])[key][-1]["crop_passes"] for key in keys]
    spent = []
    for seed in range(orders):
        order = np.lexsort((np.random.default_rng(seed).random(len(keys)), ranks))
        count = next(n for n in range(1, len(keys) + 1) if _reached([keys[place] for place in order[:n]]))
        spent.append(math.fsum(passes[place] for place in order[:count]))
    return spent


def _left_out(places_NF: Array, values_N: Array) -> Array:
    """What all other points predict of each point, (N,)."""
    mean, deviation = values_N.mean(), values_N.std()
    scaled_N = (values_N - mean) / deviation
    kernel = ConstantKernel() * Matern(np.ones(places_NF.shape[1]), LENGTHS, nu=2.5) + WhiteKernel(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an input that does not matter
        kernel = GaussianProcessRegressor(kernel).fit(places_NF, scaled_N).kernel_
    inverse_NN = np.linalg.inv(kernel(places_NF))
    # Rasmussen and Williams 2006, equation 5.12
    predicted_N: Array = mean + deviation * (scaled_N - (inverse_NN @ scaled_N) / np.diag(inverse_NN))
    return predicted_N


def _ranks(values_NK: Array, directions: Sequence[str]) -> npt.NDArray[np.int_]:
    """Non-dominated rank, 0 for the front."""
    ranks_N, left = np.zeros(len(values_NK), dtype=int), np.arange(len(values_NK))
    while len(left):
        on_front = pareto_front(values_NK[left], directions)
        left = left[~on_front]
        ranks_N[left] += 1
    return ranks_N


def summarise(runs: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What is reported: of every search median, 95 % interval and share of runs that reached the target; our ratios.

    Infinite values are None.
    """
    drawn = {name: _bootstrap_medians(passes, place) for place, (name, passes) in enumerate(runs.items())}
    medians = {name: statistics.median(passes) for name, passes in runs.items()}
    found: dict[str, Any] = {"medians": {name: _finite(median) for name, median in medians.items()}}
    if "default" in runs:
        others = [name for name in runs if name != "default"]
        found |= {f"cost_ratio_to_{name}": medians["default"] / medians[name] for name in others}
        found["cost_ratio_intervals"] = {name: _interval(drawn["default"] / drawn[name]) for name in others}
    found["searches"] = {
        name: {
            "interval": _interval(drawn[name]),
            "reached": sum(map(math.isfinite, passes)) / len(passes),
            "runs": [_finite(value) for value in passes],
        }
        for name, passes in runs.items()
    }
    return found


def _bootstrap_medians(values: Sequence[float], seed: int) -> Array:
    drawn = np.random.default_rng(seed).choice(np.array(values), (RESAMPLES, len(values)))
    medians: Array = np.median(drawn, axis=1)
    return medians


def _interval(values: Array) -> list[float | None]:
    return [_finite(value) for value in np.quantile(values, [0.025, 0.975], method="nearest")]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24, help="of each search")
    parser.add_argument("--only", nargs="*", default=list(SEARCHES), choices=SEARCHES, metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    runs: dict[str, list[float]] = {}
    if arguments.json and arguments.json.exists():
        known = json.loads(arguments.json.read_text())["searches"]
        runs = {name: [math.inf if passes is None else passes for passes in of["runs"]] for name, of in known.items()}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name in arguments.only:
            runs[name] = list(pool.map(partial(passes_to_target, name), range(arguments.runs)))
            print(f"{name:14} {statistics.median(runs[name]):10,.0f} crop passes", file=sys.stderr, flush=True)
    runs["foreknown"] = foreknown(arguments.runs)
    report(summarise(runs), torch.device("cpu"), arguments.json)


if __name__ == "__main__":
    main()

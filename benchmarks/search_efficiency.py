"""What a search spends until it has found the front, against others, on recorded trials and a simulated clock.

    python -m benchmarks.search_efficiency [--runs 24] [--json FILE]

Every search is the package's own code, with Optuna's storage in memory; a trial's epochs come from the table that
search_table.py recorded (136 points, 2 seeds, real CIFAR-10) instead of from training. Of each run the crop passes are
counted until the finished trials' hypervolume reaches 95 % of that of the whole table; run i sees the curves of seed
i mod 2. The hypervolume's reference is the worst value in the table, so that it measures what a search decides.
"""

import argparse
import heapq
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.storages import InMemoryStorage

from benchmarks.search_table import SEEDS, Curve, point_key, read_table, table_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.evaluation.cost import training_flops
from cfamc_ray.search.search import Search
from cfamc_ray.study.pareto import hypervolume
from cfamc_ray.study.records import TrialRecord

TARGET = 0.95
SEARCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "random": {"sampler": "random", "halving": None},
    "tpe": {"sampler": "tpe", "halving": None},
    "nsga2": {"sampler": "nsga2", "halving": None},
    "tpe, ASHA on robust accuracy": {"sampler": "tpe", "halving": None},
}


@cache
def curves(seed: int) -> dict[str, Curve]:
    """The table of one seed, by point."""
    return {key: rows for (of, key), rows in read_table().items() if of == seed}


@cache
def scale(seed: int) -> tuple[list[float], float]:
    """Reference and hypervolume of the whole table."""
    final = np.array([[rows[-1][name] for name in table_study().objectives] for rows in curves(seed).values()])
    reference = [float(value) for value in final.min(axis=0)]
    return reference, hypervolume(final, reference, list(table_study().objectives.values()))


def config_of(name: str, run: int) -> StudyConfig:
    """The table's space, searched by one of `SEARCHES`."""
    study = table_study()
    search = type(study.search).model_validate({**SEARCHES[name], "seed": run})
    return study.model_copy(update={"search": search})


def simulate(
    config: StudyConfig, table: Mapping[str, Curve], stops: Callable[[TrialRecord], bool]
) -> Iterator[list[TrialRecord]]:
    """Run a search on recorded trials; the records after every end of a trial.

    Args:
        config: of the study; its `trials_at_once` run side by side.
        table: the curves by point.
        stops: another rule that stops a trial after a row.
    """
    search = Search(config, InMemoryStorage(), flops_of=training_flops)
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
        stopped = search.observe(record) or (stops(record) and "stopped by ASHA")
        if stopped and not record.ended:
            record = TrialRecord(number, before.point, shown, "stopped", stopped)
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


def passes_to_target(name: str, run: int) -> dict[str, float]:
    """Crop passes, and trials, until a run has reached the target."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = SEEDS[run % len(SEEDS)]
    reference, whole = scale(seed)
    config = config_of(name, run)
    directions = list(config.objectives.values())
    stops = asha() if "ASHA" in name else lambda record: False
    for records in simulate(config, curves(seed), stops):
        finished = [record.values(config.objectives) for record in records if record.status == "finished"]
        if hypervolume(np.array(finished).reshape(-1, len(directions)), reference, directions) >= TARGET * whole:
            passes = sum(record.value("crop_passes") for record in records if record.rows)
            stopped = sum(record.status == "stopped" for record in records)
            return {"crop_passes": passes, "trials": len(records), "stopped": stopped}
    return {"crop_passes": float("inf"), "trials": len(records), "stopped": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24, help="of each search")
    parser.add_argument("--only", nargs="*", default=list(SEARCHES), choices=SEARCHES, metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name in arguments.only:
            runs[name] = list(pool.map(partial(passes_to_target, name), range(arguments.runs)))
            passes = [run["crop_passes"] for run in runs[name]]
            low, high = median_interval(passes)
            print(f"{name:30} {statistics.median(passes):10,.0f} ({low:,.0f} – {high:,.0f}) crop passes", flush=True)


def median_interval(values: Sequence[float], *, resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of the median, by bootstrap."""
    drawn = np.random.default_rng(0).choice(np.array(values), (resamples, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975], method="nearest")
    return float(low), float(high)


if __name__ == "__main__":
    main()

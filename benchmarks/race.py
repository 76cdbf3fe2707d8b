"""What a search spends until the front that it recommends is nearly the best there is: a race on a surrogate.

    python -m benchmarks.race --untrained 0.3 [--runs 64] [--searches front random …] [--passes 1500000] [--part 1/2]
    python -m benchmarks.race --table

The searches are the package's own code with Optuna's storage in memory; in place of training, a trial's curve of
operating points comes from benchmarks/surrogate.py with the noise of a fresh seed. All searches see curves, except two
with a fixed probe, which see one operating point alone: L2 1e-2, and 0.1, the strength whose points hold most of the
true front. All spend the same crop passes. Every few trials the finalists that `confirm` would choose are judged by
their true accuracies: the share of the hypervolume of the true front that they hold. Spent are the crop passes of the
search, plus those of training the finalists with three fresh seeds. The reference of the hypervolume is the clean
accuracy of an untrained encoder (`--untrained`, as measured by benchmarks/sobol_table.py), and the least robust of all
random points.

Runs are appended to results/race.jsonl.gz with the surrogate and the options that they are of, and paired by their
number, which seeds search and noise; the script can be stopped and started again, and several parts can run side by
side. The table has, for each search, the median of crop passes until the share stays above 90 and 95 %, the number of
runs that get there, the ratio of ours to it with the 95 % interval of a paired bootstrap where most runs of both get
there, and the mean share over the logarithm of the crop passes that all searches of a run have spent.
"""

import argparse
import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.storages import InMemoryStorage

from benchmarks.recorded import add_sitting_options, append, missing, read
from benchmarks.sobol_table import TABLE, sobol_study
from benchmarks.surrogate import ACCURACIES, Surrogate, read_recorded
from cfamc_ray.config.digests import digest_of
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.evaluation.operating_points import OperatingPoint, balanced
from cfamc_ray.front.candidates import candidates
from cfamc_ray.front.dominance import hypervolume, pareto_front
from cfamc_ray.front.expectation import expected
from cfamc_ray.search.search import Search
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialRecord

Array = npt.NDArray[np.float64]
RUNS = Path(__file__).parent / "results" / "race.jsonl.gz"
AT_CAP = "crops.views * pretraining.replays * pretraining.epochs >= 24"
TEN = {"startup_trials": 10}
SEARCHES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "front": ({"sampler": "front"}, []),
    "random": ({"sampler": "random"}, []),
    "random at the cap": ({"sampler": "random"}, [AT_CAP]),
    "tpe": ({"sampler": "tpe", **TEN}, []),
    "gp": ({"sampler": "gp", **TEN}, []),
    "fixed probe": ({"sampler": "front"}, []),
    "best fixed probe": ({"sampler": "front"}, []),
}
"""Search keys and further constraints."""
FIXED = {"fixed probe": 1e-2, "best fixed probe": 1e-1}
"""L2 strengths of the searches that see one operating point."""
MOST_TRIALS = 400
"""More trials than any search has within its crop passes."""
SHARES = (0.9, 0.95)
EVERY = 3
"""Trials between two choices of finalists."""
FINALISTS, SEEDS = 8, 3
"""Operating points to confirm at most, and fresh seeds of each."""
DRAWN = 4096
"""Random points whose true curves give the true front."""
RESAMPLES = 10_000
MAXIMIZE = ("maximize", "maximize")


class Truth:
    """The surrogate with its true front.

    Args:
        width: of the encoder.
        untrained: clean accuracy of an untrained encoder.
    """

    def __init__(self, width: int, untrained: float) -> None:
        self.surrogate = Surrogate(sobol_study(width), read_recorded(width))
        space = SearchSpace(self.surrogate.study)
        source = random.Random(0)  # noqa: S311 (no secret)
        drawn = list(islice(filter(space.admits, (space.draw(source) for _ in count())), DRAWN))
        curves_NL2 = self.surrogate.truth(drawn)
        self.reference = (untrained, float(curves_NL2[..., 1].max(1).min()))
        flat = curves_NL2.reshape(-1, 2)
        self.front = flat[pareto_front(flat, MAXIMIZE)]
        self.whole = hypervolume(self.front, self.reference, MAXIMIZE)

    def share(self, chosen: Sequence[TrialRecord]) -> float:
        """Share of the true front's hypervolume that some trials hold at their operating points."""
        if not chosen:
            return 0.0
        curves_NL2 = self.surrogate.truth([record.point for record in chosen])
        places = [self.surrogate.strengths.index(float(record.l2 or math.nan)) for record in chosen]
        return hypervolume(curves_NL2[range(len(chosen)), places], self.reference, MAXIMIZE) / self.whole


def searched_by(name: str, study: StudyConfig, number: int, passes: int) -> StudyConfig:
    """The space as a search of a run sees it."""
    keys, constraints = SEARCHES[name]
    budget = {"trials": MOST_TRIALS, "crop_passes": passes}
    tree = study.model_dump(mode="json") | {"search": {**keys, "seed": number}, "budget": budget}
    return StudyConfig.model_validate({**tree, "constraints": [*tree["constraints"], *constraints]})


def record_of(number: int, point: Point, curve_L2: Array, truth: Truth, *, fixed: float | None = None) -> TrialRecord:
    """A finished trial with its curve, or with the one operating point of a fixed strength."""
    strengths, passes = truth.surrogate.strengths, truth.surrogate.study.trial_at(point).crop_passes
    points = [OperatingPoint(l2, 1.0, *map(float, values)) for l2, values in zip(strengths, curve_L2, strict=True)]
    points = points if fixed is None else [points[strengths.index(fixed)]]
    shown = balanced(points)
    costs = {"crop_passes": passes, "flops": passes, "train_seconds": passes / 1e3, "eval_seconds": 0.0}
    row = {"epoch": 1, "done": True, **costs, **{name: getattr(shown, name) for name in ACCURACIES}}
    return TrialRecord(number, point, [{**row, "operating_points": list(map(asdict, points))}], "finished")


def race(name: str, number: int, truth: Truth, *, passes: int) -> Iterator[tuple[int, float]]:
    """Crop passes and share of the true front after every few trials of a run.

    Args:
        name: of the search.
        number: of the run.
        truth: what trials are drawn from.
        passes: crop passes that the search may spend, without those of its finalists.
    """
    config = searched_by(name, truth.surrogate.study, number, passes)
    search, source = Search(config, InMemoryStorage(), work_of=training_work), np.random.default_rng(number)
    records: list[TrialRecord] = []
    while (proposal := search.suggest()) is not None:
        curve_L2 = truth.surrogate.measured(proposal.point, source)
        records.append(record_of(proposal.number, proposal.point, curve_L2, truth, fixed=FIXED.get(name)))
        search.ended(records[-1])
        if len(records) % EVERY == 0:
            chosen = candidates(config, expected(config, records), tolerance=0.0, points=FINALISTS).chosen
            confirmed = {record.number: record.value("crop_passes") for record in chosen}
            spent = math.fsum(record.value("crop_passes") for record in records)
            yield round(spent + SEEDS * math.fsum(confirmed.values())), truth.share(chosen)


def passes_to(steps: Sequence[tuple[int, float]], share: float) -> float:
    """Crop passes from which on a run stays above a share; infinite where it does not."""
    above = math.inf
    for passes, held in reversed(steps):
        if held < share:
            break
        above = passes
    return above


def mean_share(steps: Sequence[tuple[int, float]], low: float, high: float) -> float:
    """Mean share over the logarithm of the crop passes between two numbers, linear between the steps.

    A later choice may have fewer finalists to train, so steps are sorted.
    """
    passes, shares = zip(*sorted(steps), strict=True)
    at = np.geomspace(low, high, 257)
    return float(np.interp(np.log(at), np.log(passes), shares).mean())


def common_passes(runs: Sequence[Sequence[tuple[int, float]]]) -> tuple[float, float]:
    """The crop passes from which on, and until which, all runs have a share."""
    spent = [sorted(passes for passes, _ in steps) for steps in runs]
    return max(passes[0] for passes in spent), min(passes[-1] for passes in spent)


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float] | None:
    """Ratio of the medians of paired runs, with its 95 % bootstrap interval.

    None where half of the runs of either do not get there: a ratio would say nothing.
    """
    pairs_N2 = np.array([ours, theirs]).T
    if not np.isfinite(np.median(pairs_N2, axis=0)).all():
        return None
    drawn = np.random.default_rng(0).integers(len(pairs_N2), size=(RESAMPLES, len(pairs_N2)))
    with np.errstate(invalid="ignore"):
        ours_R, theirs_R = np.median(pairs_N2[drawn], axis=1).T
        ratios = np.where(np.isfinite(ours_R), ours_R / theirs_R, np.inf)
    medians = np.median(pairs_N2, axis=0)
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return float(medians[0] / medians[1]), float(low), float(high)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Medians, ratios and mean shares as Markdown; runs that all searches have are compared."""
    by_search = {name: {run["run"]: run["steps"] for run in runs if run["search"] == name} for name in SEARCHES}
    by_search = {name: found for name, found in by_search.items() if found}
    common = sorted(set.intersection(*map(set, by_search.values()))) if by_search else []
    heads = [f"{share:.0%}: passes, runs that get there, ours ÷ this" for share in SHARES]
    lines = [f"{len(common)} paired runs.", "", f"| search | {' | '.join(heads)} | mean share |", "|---|---|---|---|"]
    ranges = {run: common_passes([found[run] for found in by_search.values()]) for run in common}
    for name, found in by_search.items():
        cells = []
        for share in SHARES:
            theirs = [passes_to(found[run], share) for run in common]
            ours = [passes_to(by_search["front"][run], share) for run in common]
            reached = f"{sum(map(math.isfinite, theirs))} of {len(common)}"
            ratio = None if name == "front" else ratio_interval(ours, theirs)
            middle = np.median(theirs)
            cells.append(
                (f"{middle:,.0f}, {reached}" if np.isfinite(middle) else reached)
                + ("" if ratio is None else f", {ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})")
            )
        shares = [mean_share(found[run], *ranges[run]) for run in common]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean(shares):.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--passes", type=int, default=1_500_000, help="crop passes of a search, without its finalists'")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--untrained", type=float, help="clean accuracy of an untrained encoder")
    add_sitting_options(parser)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        for of in {json.dumps(run["of"]): run["of"] for run in read(RUNS)}.values():
            print(f"{of}\n\n{table([run for run in read(RUNS) if run['of'] == of])}\n")
        return
    if options.untrained is None:
        parser.error("--untrained: give the clean accuracy that python -m benchmarks.sobol_table --untrained prints")
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    truth = Truth(options.width, options.untrained)
    recorded = digest_of([{**cell, "rows": cell["rows"][-1:]} for cell in read(TABLE)])
    of = {"table": recorded, "width": options.width, "untrained": options.untrained, "passes": options.passes}
    known = {(run["search"], run["run"]) for run in read(RUNS) if run["of"] == of}
    wanted = [(name, number) for number in range(options.runs) for name in options.searches]
    for name, number in missing(wanted, known.__contains__, options):
        steps = list(race(name, number, truth, passes=options.passes))
        append(RUNS, {"of": of, "search": name, "run": number, "steps": steps})
        print(f"{name} {number}: {steps[-1]}", flush=True)


if __name__ == "__main__":
    main()

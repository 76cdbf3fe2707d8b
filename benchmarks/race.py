"""What a search spends until the front that it recommends is nearly the best there is: a race on a surrogate.

    python -m benchmarks.race [--runs 64] [--searches front random …] [--trials 60] [--part 1/2] [--minutes 90]
    python -m benchmarks.race --table

The searches are the package's own code with Optuna's storage in memory; in place of training, a trial's curve of
operating points comes from benchmarks/surrogate.py with the noise of a fresh seed. All searches see curves, except
`fixed probe`, which sees the operating point of L2 1e-2 alone. Every few trials the finalists that `confirm` would
choose are judged by their true accuracies: the share of the hypervolume of the true front that they hold. Spent are the
crop passes of the search, plus those of training the finalists with three fresh seeds. The reference of the hypervolume
is the clean accuracy of an untrained encoder (`--untrained`, as measured by benchmarks/sobol_table.py), and the least
robust of all random points.

Runs are appended to results/race.jsonl.gz and paired by their number, which seeds search and noise; the script can be
stopped and started again, and several parts can run side by side. The table has, for each search, the median of crop
passes until the share stays above 90 and 95 %, the ratio of ours to it with the 95 % interval of a paired bootstrap,
and the mean share over the logarithm of the crop passes.
"""

import argparse
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
from benchmarks.sobol_table import sobol_study
from benchmarks.surrogate import ACCURACIES, Surrogate, read_recorded
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
}
"""Search keys and further constraints."""
FIXED = 1e-2
"""L2 strength of the fixed probe."""
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
        places = [self.surrogate.strengths.index(_strength(record)) for record in chosen]
        return hypervolume(curves_NL2[range(len(chosen)), places], self.reference, MAXIMIZE) / self.whole


def _strength(record: TrialRecord) -> float:
    return FIXED if record.l2 is None else record.l2


def searched_by(name: str, study: StudyConfig, number: int, trials: int) -> StudyConfig:
    """The space as a search of a run sees it."""
    keys, constraints = SEARCHES[name]
    tree = study.model_dump(mode="json") | {"search": {**keys, "seed": number}, "budget": {"trials": trials}}
    return StudyConfig.model_validate({**tree, "constraints": [*tree["constraints"], *constraints]})


def record_of(number: int, point: Point, curve_L2: Array, truth: Truth, *, fixed: bool) -> TrialRecord:
    """A finished trial with a curve, or with the accuracies of the fixed probe."""
    strengths, passes = truth.surrogate.strengths, truth.surrogate.study.trial_at(point).crop_passes
    points = [OperatingPoint(l2, 1.0, *map(float, values)) for l2, values in zip(strengths, curve_L2, strict=True)]
    shown = points[strengths.index(FIXED)] if fixed else balanced(points)
    costs = {"crop_passes": passes, "flops": passes, "train_seconds": passes / 1e3, "eval_seconds": 0.0}
    row = {"epoch": 1, "done": True, **costs, **{name: getattr(shown, name) for name in ACCURACIES}}
    curve = {} if fixed else {"operating_points": list(map(asdict, points))}
    return TrialRecord(number, point, [{**row, **curve}], "finished")


def race(name: str, number: int, truth: Truth, *, trials: int) -> Iterator[tuple[int, float]]:
    """Crop passes and share of the true front after every few trials of a run."""
    config = searched_by(name, truth.surrogate.study, number, trials)
    search, source = Search(config, InMemoryStorage(), work_of=training_work), np.random.default_rng(number)
    records: list[TrialRecord] = []
    while (proposal := search.suggest()) is not None:
        curve_L2 = truth.surrogate.measured(proposal.point, source)
        records.append(record_of(proposal.number, proposal.point, curve_L2, truth, fixed=name == "fixed probe"))
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


def mean_share(steps: Sequence[tuple[int, float]]) -> float:
    """Mean share over the logarithm of the crop passes; a later choice may have fewer finalists to train."""
    passes, shares = zip(*sorted(steps), strict=True)
    logs = np.log(passes)
    return float(np.trapezoid(shares, logs) / (logs[-1] - logs[0]))


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the medians of paired runs, with its 95 % bootstrap interval; NaN where most runs did not get there."""
    pairs_N2 = np.array([ours, theirs]).T
    drawn = np.random.default_rng(0).integers(len(pairs_N2), size=(RESAMPLES, len(pairs_N2)))
    with np.errstate(invalid="ignore"):
        ours_R, theirs_R = np.median(pairs_N2[drawn], axis=1).T
        ratios = np.where(np.isfinite(ours_R), ours_R / theirs_R, np.inf)
        medians = np.median(pairs_N2, axis=0)
        middle = float(medians[0] / medians[1])
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return middle, float(low), float(high)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Medians, ratios and mean shares as Markdown; runs that all searches have are compared."""
    by_search = {name: {run["run"]: run["steps"] for run in runs if run["search"] == name} for name in SEARCHES}
    by_search = {name: found for name, found in by_search.items() if found}
    common = sorted(set.intersection(*map(set, by_search.values()))) if by_search else []
    heads = [f"{share:.0%}: passes, ours ÷ this" for share in SHARES]
    lines = [f"{len(common)} paired runs.", "", f"| search | {' | '.join(heads)} | mean share |", "|---|---|---|---|"]
    for name, found in by_search.items():
        cells = []
        for share in SHARES:
            theirs = [passes_to(found[run], share) for run in common]
            ours = [passes_to(by_search["front"][run], share) for run in common]
            middle, low, high = ratio_interval(ours, theirs)
            beside = "" if name == "front" else f", {middle:.2f} ({low:.2f}–{high:.2f})"
            cells.append(f"{np.median(theirs):,.0f}{beside}")
        lines.append(f"| {name} | {' | '.join(cells)} | {np.mean([mean_share(found[run]) for run in common]):.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--untrained", type=float, default=0.3, help="clean accuracy of an untrained encoder (0.3)")
    add_sitting_options(parser)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(read(RUNS)))
        return
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    truth = Truth(options.width, options.untrained)
    known = {(run["search"], run["run"]) for run in read(RUNS)}
    wanted = [(name, number) for number in range(options.runs) for name in options.searches]
    for name, number in missing(wanted, known.__contains__, options):
        steps = list(race(name, number, truth, trials=options.trials))
        append(RUNS, {"search": name, "run": number, "steps": steps})
        print(f"{name} {number}: {steps[-1]}", flush=True)


if __name__ == "__main__":
    main()

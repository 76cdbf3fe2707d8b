"""What do forks add to a search that may spend the same crop passes? Real training on CIFAR-10.

    CFAMC_DATA=FOLDER python -m benchmarks.forks [--seeds 3] [--out runs] [--json FILE]

FOLDER holds cifar10.npz. For each seed, of the search and of the trials, the space forks.yaml is searched by the real
command without and with forks (of replays, radius, step and views, after 2 and 3 of 4 epochs), until the budget of crop
passes is spent. Compared are the hypervolumes of the fronts on 5,000 validation images (2,000 attacked), from zero and
from an untrained encoder on, after each share of the budget; a fork is paid without its trunk. At the end also with
the encoders half-way between trials of the front that share their first epochs (`cfamc interpolate`), which take no
crop passes. It can be stopped and started again.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import cfamc_ray
from benchmarks.operating_points import untrained_accuracy
from benchmarks.timing import report
from cfamc_ray.config.errors import InputError
from cfamc_ray.front.confirmation import summarize
from cfamc_ray.front.front import find_front
from cfamc_ray.front.interpolation import extend_front
from cfamc_ray.lifecycle.interpolation import interpolate_trials
from cfamc_ray.store.interpolations import Interpolation
from cfamc_ray.store.layout import STUDY
from cfamc_ray.store.records import TrialRecord, read_config, read_trials

SPACE = Path(__file__).with_suffix(".yaml")
FORKS = "{at: [0.5, 0.75], change: [crops.views, pretraining.replays, perturbation.epsilon, perturbation.step_ratio]}"
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the budget."""


def search(seed: int, out: Path, *, forks: bool) -> Path:
    """The folder of a finished study."""
    name = f"forks_{'with' if forks else 'without'}_{seed}"
    overrides = [f"name={name}", f"search.seed={seed}", f"trial.seed={seed}"]
    overrides += [f"search.fork={FORKS}"] if forks else []
    if (out / name / STUDY).exists():
        cfamc_ray.open_study(out / name).resume(verbose=True)
    else:
        cfamc_ray.run_study(SPACE, overrides=overrides, out=out, verbose=True)
    return out / name


def volumes(folder: Path, reference: Sequence[float]) -> list[float]:
    """Hypervolume after each share of the budget."""
    config, records = read_config(folder), read_trials(folder)
    budget = config.budget.crop_passes
    assert budget is not None
    found = []
    for share in SHARES:
        known: list[TrialRecord] = []
        spent = 0.0
        for record in records:
            spent += record.paid("crop_passes") if record.rows else 0.0
            if spent > share * budget:
                break
            known.append(record)
        found.append(find_front(config, known, reference=reference).hypervolume)
    return found


def between(folder: Path) -> list[Interpolation]:
    """Encoders between trials of the front; none where no two of them share epochs."""
    try:
        return interpolate_trials(folder)
    except InputError:
        return []


def main() -> None:
    """Search with and without forks, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    folders = {
        forks: [search(seed, options.out, forks=forks) for seed in range(options.seeds)] for forks in (False, True)
    }
    floor = untrained_accuracy(folders[False][0])
    found: dict[str, Any] = {"untrained_clean_accuracy": floor, "shares": SHARES}
    for label, reference in (("from the untrained encoder", (floor, 0.0)), ("from zero", (0.0, 0.0))):
        without, with_forks = ([volumes(folder, reference) for folder in folders[forks]] for forks in (False, True))
        ratios = [
            [ours / theirs if theirs else math.nan for ours, theirs in zip(one, other, strict=True)]
            for one, other in zip(with_forks, without, strict=True)
        ]
        _, mean, interval = summarize([ratio[-1] for ratio in ratios])
        interpolated = [
            extend_front(
                read_config(folder), read_trials(folder), between(folder), reference=reference
            ).front.hypervolume
            for folder in folders[True]
        ]
        found[label] = {
            "without": without,
            "with": with_forks,
            "with, and interpolations": interpolated,
            "ratios": ratios,
            "mean": mean,
            "interval": interval if len(ratios) > 1 else None,
        }
    found["forks"] = [sum(bool(record.trunk) for record in read_trials(folder)) for folder in folders[True]]
    report(found, torch.device("cpu"), options.json)


if __name__ == "__main__":
    main()

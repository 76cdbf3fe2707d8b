"""What operating points add to a search: the same trials with all strengths of the probe, and with one fixed strength.

    CFAMC_DATA=FOLDER python -m benchmarks.operating_points STUDY [--l2 0.01] [--seeds 3] [--points 12]
        [--attacked 200] [--without-fixed] [--json FILE]

STUDY is the folder of a finished study; what is computed lies beside it, so the script can be stopped and started
again. A second folder, STUDY_fixed, holds the same trials as a search with a single probe of strength `--l2` would have
seen them. The front of each is confirmed by the real command: its trials are trained again with fresh seeds, at the
strengths that the search chose on validation images, and tested on 5,000 test images, of which PGD-20 and then
AutoAttack's standard version attack `--attacked`. For each seed, hypervolumes are those of the confirmed points of each
front, from an untrained encoder's clean accuracy and zero robust accuracy on, and from zero for both. The same fresh
trainings, measured as in the search on validation images, give the ratio for the confirmed trials at all strengths and
at `--l2` alone; `--without-fixed` leaves it at that, and does not confirm the second front.
"""

import argparse
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import cfamc_ray
from benchmarks.timing import report
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.batches import encode, frozen
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.operating_points import right_of
from cfamc_ray.evaluation.probe import fit_path
from cfamc_ray.front.confirmation import TESTED, Confirmation, summarize
from cfamc_ray.front.dominance import hypervolume
from cfamc_ray.front.finalists import confirmed_front
from cfamc_ray.front.front import find_front
from cfamc_ray.host.files import write_text
from cfamc_ray.store.epoch_rows import Row, dump_rows, parse_rows
from cfamc_ray.store.layout import CONFIRM, EPOCHS
from cfamc_ray.store.records import read_config, read_trials
from cfamc_ray.training.trial import Trial

MAXIMIZE = ("maximize", "maximize")


def fixed_copy(study: Path, l2: float) -> Path:
    """The same trials as a search with one strength would have seen them, in a folder beside the study."""
    copy = study.with_name(f"{study.name}_fixed")
    if not copy.exists():
        draft = copy.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(study, draft)
        for path in draft.glob(f"trial_*/{EPOCHS}"):
            write_text(path, dump_rows(_at(row, l2) for row in parse_rows(path.read_text())))
        draft.rename(copy)
    return copy


def share_fresh_runs(source: Path, target: Path) -> None:
    """Let a confirmation begin with the fresh runs of another one: a trial's encoders serve all of its strengths."""
    if not (target / CONFIRM).exists():
        draft = target / f"{CONFIRM}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(source / CONFIRM, draft)
        draft.rename(target / CONFIRM)


def _at(row: Row, l2: float) -> Row:
    """A row whose only operating point is that of one strength."""
    if not row.get("operating_points"):
        return row
    (only,) = (point for point in row["operating_points"] if point["l2"] == l2)
    return {**row, **only, "operating_points": [only]}


def untrained_accuracy(study: Path) -> float:
    """Clean accuracy on test images of the study's encoder before training, at the best strength."""
    config = read_config(study).trial
    splits, test = load_splits(config.data), load_test(config.data)
    encoder = Trial(config, splits).trainer.encoder
    with frozen(encoder):
        classifier = LinearClassifier(encoder, encoder)
        features = [encode(classifier, images.images_NCHW, at_once=250) for images in (splits.probe, test)]
        probe = config.evaluation.head
        heads = fit_path(
            features[0],
            splits.probe.labels_N,
            classes=splits.classes,
            strengths=probe.l2,
            tolerance=probe.tolerance,
            iterations=probe.iterations,
        )
        return float(right_of(heads, features[1], test.labels_N).float().mean(0).max())


def confirm(study: Path, *, seeds: int, points: int, attacked: int) -> list[Confirmation]:
    """Train and test the front again; what is there already is kept."""
    keys = {"seeds": seeds, "points": points, "tolerance": 0, "images": 5000, "attacked_images": attacked}
    overrides = [f"confirm.{key}={value}" for key, value in keys.items()]
    cfamc_ray.open_study(study).confirm(overrides=overrides, verbose=True)
    return confirmed_front(read_config(study), study)


def fresh_volumes(study: Path, strengths: Collection[float], reference: Sequence[float]) -> dict[int, float]:
    """Hypervolume of the fresh trainings at some strengths, measured as in the search, by seed."""
    by_seed: dict[int, list[list[float]]] = defaultdict(list)
    for record in read_trials(study / CONFIRM):
        if record.status == "finished":
            points = [point for point in record.each_point(TESTED) if point.l2 in strengths]
            by_seed[int(record.point["seed"])] += [point.values(TESTED) for point in points]
    return {seed: hypervolume(values, reference, MAXIMIZE) for seed, values in by_seed.items()}


def volumes(confirmed: Sequence[Confirmation], reference: Sequence[float]) -> dict[int, float]:
    """Hypervolume of the confirmed points, by seed."""
    seeds = set.intersection(*(set(one.fresh_seeds) for one in confirmed))
    return {
        seed: hypervolume(
            [[one.tested[name].values[one.fresh_seeds.index(seed)] for name in TESTED] for one in confirmed],
            reference,
            MAXIMIZE,
        )
        for seed in sorted(seeds)
    }


def gain(with_curves: Mapping[int, float], without: Mapping[int, float]) -> dict[str, Any]:
    """The ratio of hypervolumes with each seed, and its mean with an interval."""
    ratios = [with_curves[seed] / without[seed] for seed in sorted(with_curves.keys() & without.keys())]
    by_seed, mean, interval = summarize(ratios)
    return {"by_seed": list(by_seed), "mean": mean, "interval": list(interval)}


def points(confirmed: Iterable[Confirmation]) -> list[dict[str, Any]]:
    """What was searched and what was confirmed, for each point."""
    return [
        {
            "trial": one.record.number,
            "l2": one.record.l2,
            **{f"searched_{name}": one.searched[name] for name in TESTED},
            **{f"tested_{name}": list(one.tested[name].values) for name in TESTED},
            **{f"optimism_{name}": one.optimism[name] for name in TESTED},
            **{f"selection_{name}": one.selection[name] for name in TESTED},
        }
        for one in confirmed
    ]


def main() -> None:
    """Confirm both fronts and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY")
    parser.add_argument("--l2", type=float, default=1e-2, help="strength of the fixed probe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=12, help="largest number of confirmed points of each front")
    parser.add_argument("--attacked", type=int, default=200, metavar="IMAGES")
    parser.add_argument("--without-fixed", action="store_true", help="do not confirm the front of the fixed strength")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    keys = {"seeds": options.seeds, "points": options.points, "attacked": options.attacked}
    folders = {"curves": options.study, "fixed": fixed_copy(options.study, options.l2)}
    config = read_config(options.study)
    confirmed = {"curves": confirm(folders["curves"], **keys)}
    if not options.without_fixed:
        share_fresh_runs(folders["curves"], folders["fixed"])
        confirmed["fixed"] = confirm(folders["fixed"], **keys)
    floor = untrained_accuracy(options.study)
    found: dict[str, Any] = {"l2": options.l2, "untrained_clean_accuracy": floor}
    for label, reference in (("from the untrained encoder", (floor, 0.0)), ("from zero", (0.0, 0.0))):
        of_search = {
            name: find_front(config, read_trials(folder), reference=reference).hypervolume
            for name, folder in folders.items()
        }
        every, only = (
            fresh_volumes(options.study, strengths, reference)
            for strengths in (config.trial.evaluation.head.l2, [options.l2])
        )
        of_test = {name: volumes(front, reference) for name, front in confirmed.items()}
        found[label] = {
            "searched": of_search["curves"] / of_search["fixed"],
            "fresh trainings of the confirmed trials": gain(every, only),
            "hypervolumes": of_test,
        }
        if "fixed" in of_test:
            found[label]["confirmed"] = gain(of_test["curves"], of_test["fixed"])
    found["points"] = {name: points(front) for name, front in confirmed.items()}
    report(found, torch.device("cpu"), options.json)


if __name__ == "__main__":
    main()

"""Every published system at reduced scale on real images, at equal FLOPs: which of the paper's orderings are found?

A quarter-width ResNet-18 pretrains on about 2,000 images of CIFAR-10 by each recipe, with at most 72,000 crop passes
and the FLOPs of 52,000 whole ones; a linear probe (L2 1e-2) is fitted on 5,000 labelled training images and measured on
5,000 test images, of which PGD-20 from a random start attacks the first 500, at 4 and 8/255, on the cross-entropy and
then on the margin, and AutoAttack the first 128 at 8/255, of which it sees those that PGD left (systems only).
Then probes of five L2 strengths are fitted, measured on the same test images and attacked as in a search (`margins`,
4/255, the first 1,000): the curve of the system. Each ordering is judged at the one probe and on the curves, by the
best strength of each system. Three seeds. A cell takes 3 to 6 minutes of one core.

    CFAMC_DATA=FOLDER python -m benchmarks.published_systems [--part 1/2]     # train and measure what is missing
    python -m benchmarks.published_systems --table                            # results as Markdown

FOLDER holds cifar10.npz. Cells with a curve are skipped, so the script can be stopped and started again, and several
parts can run side by side: each appends its cells to benchmarks/results/published_systems.jsonl, where the last cell of
a name and seed counts.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from benchmarks.recorded import add_sitting_options, append, missing, read
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.heads import HeadConfig
from cfamc_ray.config.protocol import PGD_20, PROTOCOLS
from cfamc_ray.config.recipes import Variant, read_recipe
from cfamc_ray.config.trial import TrialConfig, lay_trials
from cfamc_ray.cost.work import training_flops
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import Splits, load_splits, load_test
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.store.environment import environment
from cfamc_ray.training.generators import ATTACK, make_generator
from cfamc_ray.training.trial import Trial, TrialFailed

RESULTS = Path(__file__).parent / "results" / "published_systems.jsonl"
SMALL: dict[str, Any] = {
    "data": {"name": "cifar10", "probe_images": 5000, "validation_images": 0},
    "encoder": {"width": 16, "prefeature_width": 512, "hidden_width": 512, "embedding_width": 128},
    "pretraining": {"precision": "auto"},
}
PROTOCOL = PROTOCOLS["standard"].model_copy(
    update={
        "head": HeadConfig(l2=(1e-2,)),
        "images": 5000,
        "attacked_images": 500,
        "epsilons": (4 / 255, 8 / 255),
        "attack": PGD_20,
        "autoattack_epsilons": (8 / 255,),
        "autoattack_images": 128,
    }
)
CURVE = EvaluationConfig(epsilon=4 / 255, attacked_images=1000)


def small(recipe: str, variant: Variant = "corrected", **sections: dict[str, Any]) -> TrialConfig:
    """A recipe on a small encoder and few images."""
    return TrialConfig.model_validate(lay_trials(read_recipe(recipe).tree(variant), SMALL, sections))


def emp(
    recipe: str, images: int, epochs: int, variant: Variant = "corrected", **sections: dict[str, Any]
) -> TrialConfig:
    """EMP-SSL with 8 views of 50 images."""
    pretraining = {"batch_images": 50, "epochs": epochs}
    ours = {"crops": {"views": 8}, "data": {"pretrain_images": images}, "pretraining": pretraining}
    return small(recipe, variant, **lay_trials(ours, sections))


def simclr(recipe: str, images: int, epochs: int) -> TrialConfig:
    """SimCLR with 2 views of 200 images: as many crops in a minibatch."""
    return small(recipe, data={"pretrain_images": images}, pretraining={"batch_images": 200, "epochs": epochs})


def replayed(replays: int, schedule: str) -> TrialConfig:
    """72,000 crop passes in replays of 4 views of 50 of 1,500 images."""
    return small(
        "cf-amc-ssl",
        data={"pretrain_images": 1500},
        crops={"views": 4},
        optimizer={"schedule": schedule},
        pretraining={"batch_images": 50, "replays": replays, "epochs": 12 // replays},
    )


VIT = {"architecture": "vit"}
SYSTEMS: dict[str, TrialConfig] = {
    **{f"emp-ssl-{kind}": emp(f"emp-ssl-{kind}", 2150, 3) for kind in ("crops", "patches")},
    **{f"emp-ssl-{kind}-pgd": emp(f"emp-ssl-{kind}-pgd", 1500, 1) for kind in ("crops", "patches")},
    "cf-amc-ssl": emp("cf-amc-ssl", 2150, 1),
    "emp-ssl-patches-free": emp("emp-ssl-patches-free", 2150, 1),
    **{f"simclr-{kind}": simclr(f"simclr-{kind}", 2000, 13) for kind in ("crops", "patches")},
    **{f"simclr-{kind}-pgd": simclr(f"simclr-{kind}-pgd", 2000, 3) for kind in ("crops", "patches")},
    **{f"simclr-{kind}-free": simclr(f"simclr-{kind}-free", 2200, 4) for kind in ("crops", "patches")},
}
VARIANTS: dict[str, TrialConfig] = {
    "cf-amc-ssl, published": emp("cf-amc-ssl", 2150, 1, "published"),
    "emp-ssl-crops-pgd, published": emp("emp-ssl-crops-pgd", 1100, 1, "published"),
}
REPLAYS: dict[str, TrialConfig] = {
    f"m = {replays}, horizon {schedule}": replayed(replays, schedule)
    for replays in (1, 3, 6, 12)
    for schedule in (("updates", "minibatches") if replays > 1 else ("updates",))
}
BACKBONES: dict[str, TrialConfig] = {
    "vit, emp-ssl-crops": emp("emp-ssl-crops", 2900, 3, encoder=VIT),
    "vit, cf-amc-ssl": emp("cf-amc-ssl", 2900, 1, encoder=VIT),
}
GENTLER: dict[str, TrialConfig] = {
    "vit, cf-amc-ssl, ε 4/255": emp("cf-amc-ssl", 2900, 1, encoder=VIT, perturbation={"epsilon": 4 / 255}),
    "vit, cf-amc-ssl, trust 0.001": emp("cf-amc-ssl", 2900, 1, encoder=VIT, optimizer={"trust_coefficient": 0.001}),
}
UNTRAINED = {"resnet18, untrained": SYSTEMS["cf-amc-ssl"], "vit, untrained": BACKBONES["vit, cf-amc-ssl"]}
GROUPS = {
    "systems": SYSTEMS,
    "untrained": UNTRAINED,
    "backbones": BACKBONES,
    "gentler": GENTLER,
    "replays": REPLAYS,
    "variants": VARIANTS,
}
ALL = range(3)
PLAN = (
    ("systems", ALL),
    ("untrained", ALL),
    ("backbones", ALL[:1]),
    ("replays", ALL[:2]),
    ("variants", ALL),
    ("gentler", ALL[:1]),
    ("replays", ALL[2:]),
    ("backbones", ALL[1:]),
)
"""Groups and seeds, in the order in which they are run."""


def cells() -> Iterator[tuple[str, str, int, TrialConfig]]:
    """Group, name, seed and trial, the more important first."""
    for group, seeds in PLAN:
        for seed in seeds:
            for name, trial in GROUPS[group].items():
                yield group, name, seed, trial.with_values({"seed": seed})


def run_cell(config: TrialConfig, group: str) -> dict[str, Any]:
    """Train and measure."""
    torch.set_num_threads(1)
    splits = load_splits(config.data)
    trial = Trial(config, splits)
    record: dict[str, Any] = {"crop_passes": 0, "flops": 0, "train_seconds": 0.0}
    if group != "untrained":
        *_, last = trial
        record = {
            "crop_passes": last.crop_passes,
            "flops": training_flops(config),
            "train_seconds": round(last.train_seconds, 1),
            "loss": last.loss,
            "precision": last.precision,
        }
    started, test = time.perf_counter(), load_test(config.data, images=PROTOCOL.images)
    measured = run_protocol(
        trial.trainer.encoder,
        splits.probe,
        test,
        classes=splits.classes,
        protocol=PROTOCOL if group == "systems" else PROTOCOL.model_copy(update={"autoattack_images": 0}),
        crops=config.crops,
    )
    record["measured"] = [
        {"attack": found.attack, "epsilon": found.epsilon, "images": found.images, "right": found.right}
        for found in measured
    ]
    record["curve"] = measured_curve(trial.trainer.encoder, splits, test, config=CURVE, seed=config.seed)
    record["eval_seconds"] = round(time.perf_counter() - started, 1)
    return record


def measured_curve(
    encoder: SelfSupervisedEncoder, splits: Splits, images: LabelledImages, *, config: EvaluationConfig, seed: int
) -> list[dict[str, float]]:
    """Accuracies of a frozen encoder on images for each L2 strength of its probes, attacked as in a search."""
    generator = make_generator(seed, ATTACK, 0)
    scores = search_scores(encoder, splits.probe, images, classes=splits.classes, config=config, generator=generator)
    keys = ("l2", "clean_accuracy", "robust_accuracy")
    return [{key: getattr(point, key) for key in keys} for point in scores.points]


def finished() -> list[dict[str, Any]]:
    """All cells so far, the last of each name and seed that was measured; of a system with curves only those with one.

    Cells without a curve are of an earlier protocol (other test images, another precision), and not comparable.
    """
    measured = {(cell["name"], cell["seed"]): cell for cell in read(RESULTS) if "measured" in cell}
    curved = {cell["name"] for cell in measured.values() if "curve" in cell}
    return [cell for cell in measured.values() if "curve" in cell or cell["name"] not in curved]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sitting_options(parser)
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(finished()))
        return
    known = {(cell["name"], cell["seed"]) for cell in finished() if "curve" in cell}
    for group, name, seed, config in missing(cells(), lambda cell: cell[1:3] in known, arguments):
        try:
            record = run_cell(config, group)
        except TrialFailed as failure:
            record = {"failure": str(failure)}
        cell = {"group": group, "name": name, "seed": seed, **record, "environment": environment()}
        append(RESULTS, cell)
        print(name, seed, record, flush=True)


Cells = Sequence[Mapping[str, Any]]

COLUMNS = {
    "clean": ("none", 0.0),
    "PGD-20 at 4/255": ("pgd", 4 / 255),
    "and on the margin": ("pgd_margin", 4 / 255),
    "at 8/255, both losses": ("pgd_margin", 8 / 255),
    "and AutoAttack (128)": ("autoattack", 8 / 255),
}
"""Name in the table; attack and radius."""
ROBUST = "and on the margin"
CURVES = {"clean, best L2": "clean_accuracy", "at 4/255, best L2": "robust_accuracy"}
"""Name in the table; accuracy of an operating point, of which the largest of a cell's curve counts."""
ON_CURVE = dict(zip(("clean", ROBUST), CURVES, strict=True))
"""The column of the curves that stands for one of the fixed probe in the orderings."""
CLAIMS = (
    ("free beats PGD at equal FLOPs: EMP-SSL, crops", ROBUST, "cf-amc-ssl", "emp-ssl-crops-pgd"),
    (
        "free beats PGD at equal FLOPs: EMP-SSL, patches",
        ROBUST,
        "emp-ssl-patches-free",
        "emp-ssl-patches-pgd",
    ),
    ("free beats PGD at equal FLOPs: SimCLR, crops", ROBUST, "simclr-crops-free", "simclr-crops-pgd"),
    ("crops beat patches, clean: EMP-SSL free", "clean", "cf-amc-ssl", "emp-ssl-patches-free"),
    ("crops beat patches, robust: EMP-SSL free", ROBUST, "cf-amc-ssl", "emp-ssl-patches-free"),
    ("crops beat patches, clean: EMP-SSL PGD", "clean", "emp-ssl-crops-pgd", "emp-ssl-patches-pgd"),
    ("crops beat patches, robust: EMP-SSL PGD", ROBUST, "emp-ssl-crops-pgd", "emp-ssl-patches-pgd"),
    ("crops beat patches, clean: SimCLR PGD", "clean", "simclr-crops-pgd", "simclr-patches-pgd"),
    ("crops beat patches, robust: SimCLR free", ROBUST, "simclr-crops-free", "simclr-patches-free"),
    ("EMP-SSL beats SimCLR, clean: free, crops", "clean", "cf-amc-ssl", "simclr-crops-free"),
    ("EMP-SSL beats SimCLR, robust: free, crops", ROBUST, "cf-amc-ssl", "simclr-crops-free"),
    ("an attack in training makes robust: EMP-SSL, crops", ROBUST, "cf-amc-ssl", "emp-ssl-crops"),
    ("and costs clean accuracy: EMP-SSL, crops", "clean", "emp-ssl-crops", "cf-amc-ssl"),
    ("m = 12 is worse than m = 6, clean", "clean", "m = 6, horizon updates", "m = 12, horizon updates"),
    ("m = 12 is worse than m = 3, clean", "clean", "m = 3, horizon updates", "m = 12, horizon updates"),
    ("m = 12 is worse than m = 3, robust", ROBUST, "m = 3, horizon updates", "m = 12, horizon updates"),
    (
        "and under the published horizon, clean",
        "clean",
        "m = 3, horizon minibatches",
        "m = 12, horizon minibatches",
    ),
    ("the horizon matters at m = 12, clean", "clean", "m = 12, horizon updates", "m = 12, horizon minibatches"),
    ("a ViT learns: free against untrained, clean", "clean", "vit, cf-amc-ssl", "vit, untrained"),
    ("a ViT gets robust: free against no attack", ROBUST, "vit, cf-amc-ssl", "vit, emp-ssl-crops"),
    ("a ResNet-18 beats a ViT, clean: free", "clean", "cf-amc-ssl", "vit, cf-amc-ssl"),
    ("the corrected variant beats the published, robust: free", ROBUST, "cf-amc-ssl", "cf-amc-ssl, published"),
    (
        "the corrected variant beats the published, robust: PGD",
        ROBUST,
        "emp-ssl-crops-pgd",
        "emp-ssl-crops-pgd, published",
    ),
)
"""Ordering; column; what should be better; than what."""


def accuracy(cell: Mapping[str, Any], column: str) -> float:
    """In percent; NaN where it was not measured."""
    if column in CURVES:
        return 100 * max((float(point[CURVES[column]]) for point in cell.get("curve", ())), default=math.nan)
    for found in cell.get("measured", ()):
        if (found["attack"], found["epsilon"]) == COLUMNS[column]:
            return 100 * float(found["right"]) / float(found["images"])
    return math.nan


def at_the_end(cells: Cells, column: str) -> bool:
    """Whether the best value of a curve is at its strongest penalty, in any cell."""
    if column not in CURVES:
        return False
    curves = [cell["curve"] for cell in cells if "curve" in cell]
    return any(max(curve, key=lambda point: point[CURVES[column]]) == curve[-1] for curve in curves)


def by_seed(cells: Cells, name: str, column: str) -> dict[int, float]:
    """Accuracies of a system that were measured."""
    values = {cell["seed"]: accuracy(cell, column) for cell in cells if cell["name"] == name}
    return {seed: value for seed, value in values.items() if math.isfinite(value)}


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float]:
    """The mean difference over the seeds that both have, and half of Student's interval of 95 %; NaN of one seed."""
    differences = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
    if len(differences) < 2:
        return math.nan, math.nan
    half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), half


def verdict(cells: Cells, column: str, better: str, worse: str) -> str:
    """The mean difference with its interval, and what it says."""
    kinds = {"curve" in cell for cell in cells if cell["name"] in (better, worse)}
    if len(kinds) > 1:
        return "measured differently | –"
    mean, half = paired(by_seed(cells, better, column), by_seed(cells, worse, column))
    if math.isnan(mean):
        return "too few seeds | –"
    decided = "undecided" if abs(mean) <= half else "found" if mean > 0 else "reversed"
    return f"{mean:+.1f} ± {half:.1f} | {decided}"


def table(cells: Cells) -> str:
    """Accuracies in %, mean and standard deviation over the seeds; then the orderings."""
    told = cells[-1]["environment"]
    dates = sorted(cell["environment"]["date"][:10] for cell in cells)
    precisions = sorted({cell["precision"] for cell in cells if "precision" in cell})
    versions = ", ".join(f"{name} {told['versions'][name]}" for name in ("torch", "pyautoattack"))
    lines = [
        "# Every published system at reduced scale, at equal FLOPs",
        "",
        "What was trained and measured: `benchmarks/published_systems.py`, which writes this file (`--table`).",
        f"{dates[0]} to {dates[-1]}, {told['platform']}, 1 of {told['cores']} cores, Python {told['python']}, "
        f"{versions}, {' and '.join(precisions)}.",
        f"Accuracies in %, mean ± standard deviation over the seeds. {sum('curve' in cell for cell in cells)} of "
        f"{len(cells)} cells have a curve; the others are of an earlier protocol, with other test images, and are not "
        "compared with those. A ≥ marks a best value that some cell has at the end of its curve, where it may still "
        "grow.",
        "",
    ]
    columns = (*COLUMNS, *CURVES)
    lines += [f"| system | {' | '.join(columns)} | crop passes | TFLOP | seeds |", "|---" * (len(columns) + 4) + "|"]
    for name in dict.fromkeys(name for trials in GROUPS.values() for name in trials):
        own = [cell for cell in cells if cell["name"] == name and "measured" in cell]
        if own:
            scores = (
                ("≥ " if at_the_end(own, column) else "") + mean_and_spread(list(by_seed(own, name, column).values()))
                for column in columns
            )
            cost = f"{own[0]['crop_passes']:,} | {own[0]['flops'] / 1e12:.1f}"
            lines.append(f"| {name} | {' | '.join(scores)} | {cost} | {len(own)} |")
    lines += ["", "| ordering | difference in points, 95 % interval | | with curves | |", "|---|---|---|---|---|"]
    lines += [
        f"| {claim} | {verdict(cells, column, *compared)} | {verdict(cells, ON_CURVE[column], *compared)} |"
        for claim, column, *compared in CLAIMS
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

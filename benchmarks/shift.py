"""Does robustness transfer: to other images, to few labels, to corruptions, through fine-tuning?

Encoders of `benchmarks/published_systems.py` (quarter-width ResNet-18, 51,600 crop passes), with and without an attack,
pretrained on 2,150 images of CIFAR-10 or of CIFAR-100; and untrained ones. Each is judged frozen on CIFAR-10, CIFAR-100
and digits, as in a search: probes of five L2 strengths on up to 5,000 labels, up to 2,000 test images, of which
`margins` attacks 500 at 4/255. On CIFAR-10 also with 1, 5 and 20 labels of each class (L2 0.1, 3 draws); under the
fifteen common corruptions at severities 1, 3 and 5 (500 images, L2 0.1); and after fine-tuning on 100 labels of each
class for 10 epochs, last block or whole network, on clean or on attacked images (PGD-5 at 8/255): 1,000 test images,
200 attacked. The untrained encoder, fine-tuned as a whole, is the supervised baseline. Three seeds.

    CFAMC_DATA=FOLDER python -m benchmarks.shift [--part 1/2] [--minutes 90]     # train and measure what is missing
    python -m benchmarks.shift --table                                           # results as Markdown

FOLDER holds cifar10.npz and cifar100.npz. A cell takes about 15 minutes of one core. Cells are appended to
benchmarks/results/shift.jsonl; the script can be stopped and started again, and several parts can run side by side.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.published_systems import emp, mean_and_spread, measured_curve, paired
from benchmarks.recorded import add_sitting_options, append, missing, read
from cfamc_ray.config.attacks import MarginsConfig
from cfamc_ray.config.corruptions import CORRUPTIONS
from cfamc_ray.config.data import Cifar10Config, Cifar100Config, DataConfig, DigitsConfig
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.finetune import FinetuneConfig
from cfamc_ray.config.heads import HeadConfig
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.measurement import CLEAN, MeanAccuracy, means_of
from cfamc_ray.evaluation.protocols import measure_on
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.store.environment import environment
from cfamc_ray.training.trial import Trial

RESULTS = Path(__file__).parent / "results" / "shift.jsonl"
HOME = "cifar10"
FEW: dict[str, Any] = {"pretrain_images": 2, "validation_images": 0}
DATA: dict[str, DataConfig] = {
    HOME: Cifar10Config(probe_images=5000, **FEW),
    "cifar100": Cifar100Config(probe_images=5000, **FEW),
    "digits": DigitsConfig(probe_images=1000, **FEW),
}
"""Labelled images to fit heads on, and test images."""
SOURCES = (HOME, "cifar100")
SYSTEMS: dict[str, TrialConfig] = {
    f"{recipe}, {source}": emp(recipe, 2150, epochs, data={"name": source})
    for source in SOURCES
    for recipe, epochs in (("cf-amc-ssl", 1), ("emp-ssl-crops", 3))
} | {"untrained": emp("cf-amc-ssl", 2150, 1)}
SEEDS = range(3)
LAYERS: dict[Literal["last_block", "all"], str] = {"last_block": "last block", "all": "whole network"}
TRAININGS: tuple[Literal["standard", "adversarial"], ...] = ("standard", "adversarial")

CURVE = EvaluationConfig(epsilon=4 / 255, attacked_images=500)
BASE = ProtocolConfig(
    name="shift",
    head=HeadConfig(l2=(0.1,)),
    images=1000,
    attacked_images=200,
    epsilons=(4 / 255,),
    attack=MarginsConfig(),
    margin_check=False,
    autoattack_images=0,
    autoattack_epsilons=(),
)
TUNED = BASE.model_copy(update={"labels_per_class": 100, "draws": 1})
FEW_LABELS = [
    BASE.model_copy(update={"name": f"{labels} of each", "labels_per_class": labels, "draws": 3})
    for labels in (1, 5, 20)
]
CORRUPTED = BASE.model_copy(
    update={
        "name": "corruptions",
        "images": 500,
        "epsilons": (),
        "corruptions": CORRUPTIONS,
        "severities": (1, 3, 5),
    }
)
FINE_TUNED = [
    TUNED.model_copy(update={"name": "frozen"}),
    *(
        TUNED.model_copy(
            update={
                "name": f"{words}, {training}",
                "finetune": FinetuneConfig(layers=layers, training=training, epochs=10),
            }
        )
        for layers, words in LAYERS.items()
        for training in TRAININGS
    ),
]
PROTOCOLS = (*FEW_LABELS, CORRUPTED, *FINE_TUNED)
"""What an encoder is judged by on `HOME`."""
DIFFERENCES = [(f"cf-amc-ssl, {source}", f"emp-ssl-crops, {source}") for source in SOURCES] + [
    (f"cf-amc-ssl, {HOME}", "untrained")
]


def curve_on(name: str, encoder: SelfSupervisedEncoder, seed: int) -> list[dict[str, float]]:
    """The operating points of a frozen encoder on a data set's test images."""
    data = DATA[name]
    return measured_curve(encoder, load_splits(data), load_test(data, images=2000), config=CURVE, seed=seed)


def accuracies(means: Sequence[MeanAccuracy]) -> dict[str, float]:
    """Accuracies by name: clean, robust, under each corruption over its severities, and over all corruptions."""
    found = {"clean" if each.of.attack == CLEAN else "robust": each.mean for each in means if not each.of.corruption}
    kinds = dict.fromkeys(each.of.corruption for each in means if each.of.corruption)
    by_kind = {str(kind): statistics.fmean(each.mean for each in means if each.of.corruption == kind) for kind in kinds}
    return found | by_kind | ({"corrupted": statistics.fmean(by_kind.values())} if by_kind else {})


def run_cell(name: str, seed: int) -> dict[str, Any]:
    """Train and judge an encoder."""
    config = SYSTEMS[name].with_values({"seed": seed})
    trial = Trial(config, load_splits(config.data))
    if name != "untrained":
        *_, _ = trial
    encoder = trial.trainer.encoder
    return {
        "encoder": name,
        "seed": seed,
        "curves": {target: curve_on(target, encoder, seed) for target in DATA},
        HOME: {
            protocol.name: accuracies(
                means_of(
                    measure_on(DATA[HOME], encoder, protocol=protocol, crops=config.crops, device=torch.device("cpu"))
                )
            )
            for protocol in PROTOCOLS
        },
    }


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sitting_options(parser)
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    options = parser.parse_args()
    if options.table:
        print(table(read(RESULTS)))
        return
    torch.set_num_threads(1)
    known = {(cell["encoder"], cell["seed"]) for cell in read(RESULTS)}
    cells = itertools.product(SEEDS, SYSTEMS)
    for seed, name in missing(cells, lambda cell: cell[::-1] in known, options):
        cell = run_cell(name, seed)
        append(RESULTS, cell | {"environment": environment()})
        print(name, seed, cell[HOME], flush=True)


Cells = Sequence[Mapping[str, Any]]
Reading = Callable[[Mapping[str, Any]], float]
"""An accuracy of a cell, in percent."""


def on_curve(target: str, accuracy: str) -> Reading:
    """The best of an accuracy on a curve."""
    return lambda cell: 100 * max(float(point[accuracy]) for point in cell["curves"][target])


def at_home(protocol: str, accuracy: str) -> Reading:
    """An accuracy by a protocol."""
    return lambda cell: 100 * float(cell[HOME][protocol][accuracy])


COLUMNS: dict[str, dict[str, Reading]] = {
    "Frozen, on other images (best strength of the probe for each accuracy)": {
        f"{target}, {label}": on_curve(target, f"{label}_accuracy") for target in DATA for label in ("clean", "robust")
    },
    **{
        title: {
            f"{protocol.name}, {label}": at_home(protocol.name, label)
            for protocol in protocols
            for label in ("clean", "robust")
        }
        for title, protocols in (("Few labels of each class", FEW_LABELS), ("Fine-tuned on 100 labels", FINE_TUNED))
    },
    "Common corruptions": {
        "none": at_home(CORRUPTED.name, "clean"),
        "all": at_home(CORRUPTED.name, "corrupted"),
        **{kind.replace("_", " "): at_home(CORRUPTED.name, kind) for kind in CORRUPTIONS},
    },
}
"""The tables: what each column reads from a cell."""


def strengths(cells: Cells, target: str) -> str:
    """The L2 strength with the largest sum of clean and robust accuracy, of each seed."""
    sums = [{p["l2"]: p["clean_accuracy"] + p["robust_accuracy"] for p in cell["curves"][target]} for cell in cells]
    return ", ".join(f"{max(each, key=each.__getitem__):g}" for each in sums)


def table(cells: Cells) -> str:
    """Accuracies in %, mean and standard deviation over the seeds, and what the attack in training changes."""
    by_name = {name: [cell for cell in cells if cell["encoder"] == name] for name in SYSTEMS}
    lines = [f"{len(cells)} encoders. Accuracies in %, mean ± standard deviation over the seeds."]
    for title, columns in COLUMNS.items():
        lines += ["", f"## {title}", "", f"| encoder | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, own in by_name.items():
            shown = [mean_and_spread([reading(cell) for cell in own]) for reading in columns.values()]
            lines.append(f"| {name} | {' | '.join(shown)} |")
        for ours, theirs in DIFFERENCES:
            shown = [difference(by_name[ours], by_name[theirs], reading) for reading in columns.values()]
            lines.append(f"| {ours} − {theirs} (95 %) | {' | '.join(shown)} |")
    lines += ["", "## Strength of the probe with the largest sum of both accuracies, by seed", ""]
    lines += [f"| encoder | {' | '.join(DATA)} |", "|---" * (len(DATA) + 1) + "|"]
    for name, own in by_name.items():
        lines.append(f"| {name} | {' | '.join(strengths(own, target) for target in DATA)} |")
    return "\n".join(lines)


def difference(ours: Cells, theirs: Cells, reading: Reading) -> str:
    """Mean difference over the seeds that both have, with Student's interval of 95 %."""
    mean, half = paired(*({cell["seed"]: reading(cell) for cell in cells} for cells in (ours, theirs)))
    return "–" if math.isnan(mean) else f"{mean:+.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()

"""Which cheap attack comes nearest to AutoAttack, for the robust accuracy of a search?

Sixteen small encoders (ResNet-18 of width 8 and 16, ViT; trained without perturbation and with ε of 2 to 16/255, with
1, 3 and 6 replays) with linear probes of several L2 strengths, on CIFAR-10. Each attack gets the same test images at
4/255. Its gap is the accuracy that it leaves, minus that of the worst case: images that AutoAttack's standard version
or any attack of the table breaks are broken. Attacks `shared …` attack the probes of all strengths at once.

    CFAMC_DATA=FOLDER python -m benchmarks.attacks [--part 1/2] [--work FOLDER]    # train and measure what is missing
    python -m benchmarks.attacks --table                                           # results as Markdown

FOLDER holds cifar10.npz. Finished encoders are skipped, so the script can be stopped and started again, and several
parts can run side by side: each appends to benchmarks/results/attacks.jsonl. Encoders are kept in the folder of
`--work`, outside the repository.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from cfamc_ray.config.trial import TrialConfig, lay_trials
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.attacks import LOSSES, pgd, pgd_of_heads
from cfamc_ray.evaluation.autoattack import autoattack
from cfamc_ray.evaluation.batches import encode, frozen
from cfamc_ray.evaluation.classifier import LinearClassifier, as_pixels
from cfamc_ray.evaluation.probe import fit_path
from cfamc_ray.method.encoder import SelfSupervisedEncoder, load_encoder
from cfamc_ray.store.environment import environment
from cfamc_ray.training.trial import Trial

RESULTS = Path(__file__).parent / "results" / "attacks.jsonl"
EPSILON = 4 / 255
STRENGTHS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
COMPARED = (1e-2, 1e-1, 1.0)
"""Strengths whose probes AutoAttack attacks."""
IMAGES, AT_ONCE = 200, 50
SMALL: dict[str, Any] = {
    "data": {"name": "cifar10", "pretrain_images": 2500, "probe_images": 5000, "validation_images": 0},
    "crops": {"views": 4},
    "pretraining": {"batch_images": 50, "precision": "auto"},
}
HIDDEN = {"prefeature_width": 512, "hidden_width": 512, "embedding_width": 128}
ENCODERS = {"resnet18, width 8": {"width": 8}, "resnet18, width 16": {"width": 16}}
TRAINED = {(0, 3, 2), (2, 3, 2), (8, 3, 2), (16, 3, 2), (8, 1, 4), (4, 6, 1)}
"""ε in grey levels, replays, epochs."""
VIT = {(0, 3, 2), (4, 3, 2), (8, 3, 2), (4, 1, 4)}


def trials() -> dict[str, TrialConfig]:
    """The encoders to train, by name."""
    kinds = [(name, keys, TRAINED) for name, keys in ENCODERS.items()]
    kinds.append(("vit", {"architecture": "vit", "width": 16}, VIT))
    return {
        f"{name}, ε {epsilon}/255, m={replays}, {epochs} epochs": TrialConfig.model_validate(
            lay_trials(
                SMALL,
                {
                    "encoder": {**keys, **HIDDEN},
                    "perturbation": {"epsilon": epsilon / 255} if epsilon else {"attack": "none"},
                    "pretraining": {"replays": replays, "epochs": epochs},
                },
            )
        )
        for name, keys, trained in kinds
        for epsilon, replays, epochs in sorted(trained)
    }


class Counted:
    """A function of images that counts those that it gets, with and without a gradient."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function, self.forward, self.backward = function, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.forward += len(x)
        self.backward += len(x) * torch.is_grad_enabled()
        return self.function(x)

    @property
    def cost(self) -> int:
        """In forward passes of an image; a backward pass counts as one, since no gradient of weights is computed."""
        return self.forward + self.backward


def _dlr(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """The untargeted DLR loss (arXiv 2003.01690)."""
    sorted_NK = logits_NK.sort(-1).values
    margin_N = LOSSES["margin"](logits_NK, labels_N)
    return margin_N / (sorted_NK[:, -1] - sorted_NK[:, -3] + 1e-12)


LOSSES["dlr"] = _dlr
PGD = {
    "cross-entropy, 10": [("cross_entropy", 10)],
    "margin, 10": [("margin", 10)],
    "margin, 5": [("margin", 5)],
    "margin, 20": [("margin", 20)],
    "DLR, 10": [("dlr", 10)],
    "cross-entropy 5, then margin 5": [("cross_entropy", 5), ("margin", 5)],
}
APGD = {"APGD on cross-entropy, 10": ("ce", 10), "APGD on DLR, 10": ("dlr", 10)}
SHARED = {
    f"shared {aim}, {steps}{'' if loss == 'margin' else ' ' + loss}": (aim, loss, steps)
    for aim, loss, steps in [
        ("sum", "margin", 10),
        ("sum", "margin", 20),
        ("cycle", "margin", 10),
        ("cycle", "margin", 20),
        ("weakest", "margin", 10),
        ("weakest", "margin", 20),
        ("strongest", "margin", 10),
        ("strongest", "margin", 20),
        ("sum", "dlr", 10),
        ("cycle", "dlr", 10),
    ]
}


def step_of(steps: int) -> float:
    """2.5 radii in all, as 10 steps of a quarter of the radius."""
    return 2.5 * EPSILON / steps


def measure(name: str, encoder: SelfSupervisedEncoder, probe: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    """Which images each attack leaves, for each of the compared strengths, and what it cost."""
    with frozen(encoder):
        classifier = LinearClassifier(encoder, nn.Identity())
        features_NF = encode(classifier, probe.images_NCHW, at_once=250)
        heads = fit_path(features_NF, probe.labels_N, classes=10, strengths=STRENGTHS, tolerance=1e-4, iterations=200)
        x, y = as_pixels(test.images_NCHW[:IMAGES], encoder), test.labels_N[:IMAGES]
        with torch.no_grad():
            clean_NL = torch.stack([head(classifier.features_of(x)).argmax(-1) == y for head in heads], 1)
        left: dict[str, dict[str, Any]] = {}
        for attack, (aim, loss, steps) in SHARED.items():
            counted, generator = Counted(classifier.features_of), torch.Generator().manual_seed(0)
            right_NL = torch.cat(
                [
                    pgd_of_heads(
                        counted,
                        heads,
                        x[part],
                        y[part],
                        clean_NL[part],
                        epsilon=EPSILON,
                        steps=steps,
                        step_size=step_of(steps),
                        generator=generator,
                        aim=aim,
                        loss=loss,
                    )
                    for part in torch.arange(IMAGES).split(AT_ONCE)
                ]
            )
            left[attack] = {str(l2): right_NL[:, STRENGTHS.index(l2)] for l2 in COMPARED}
            left[attack]["cost"] = counted.cost / len(STRENGTHS)
        for attack in (*PGD, *APGD):
            left[attack] = {"cost": 0.0}
        worst = {}
        for l2 in COMPARED:
            place = STRENGTHS.index(l2)
            classifier.head = heads[place]
            for attack, cost, right_N in alone(classifier, x, y, clean_NL[:, place]):
                left[attack][str(l2)] = right_N
                left[attack]["cost"] += cost / len(COMPARED)
            survivors = torch.stack([each[str(l2)] for each in left.values()]).all(0)
            started = time.perf_counter()
            hit = autoattack(classifier, x[survivors], y[survivors], epsilon=EPSILON, seed=0, batch_images=AT_ONCE)
            with torch.no_grad():
                worst[str(l2)] = int((classifier(hit).argmax(-1) == y[survivors]).sum())
            print(
                f"{name}, L2 {l2:g}: {worst[str(l2)]} of {int(survivors.sum())} left, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    counts = {
        attack: {key: value if key == "cost" else int(value.sum()) for key, value in each.items()}
        for attack, each in left.items()
    }
    clean = {str(l2): int(clean_NL[:, STRENGTHS.index(l2)].sum()) for l2 in COMPARED}
    return {"encoder": name, "images": IMAGES, "clean": clean, "worst": worst, "left": counts}


def alone(classifier: LinearClassifier, x: Tensor, y: Tensor, clean_N: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Each attack on one probe: name, cost, and which images it leaves."""
    for attack, stages in PGD.items():
        counted, generator, right_N = Counted(classifier), torch.Generator().manual_seed(0), clean_N.clone()
        for loss, steps in stages:
            for part in right_N.nonzero().squeeze(1).split(AT_ONCE):
                hit = pgd(
                    counted,
                    x[part],
                    y[part],
                    epsilon=EPSILON,
                    steps=steps,
                    step_size=step_of(steps),
                    generator=generator,
                    loss=loss,
                    every_step=True,
                )  # type: ignore[arg-type]
                with torch.no_grad():
                    right_N[part] = classifier(hit).argmax(-1) == y[part]
        yield attack, counted.cost, right_N
    from pyautoattack.autopgd_base import APGDAttack  # noqa: PLC0415

    for attack, (loss, steps) in APGD.items():
        counted, right_N = Counted(classifier), clean_N.clone()
        for part in right_N.nonzero().squeeze(1).split(AT_ONCE):
            attacker = APGDAttack(counted, n_iter=steps, norm="Linf", eps=EPSILON, loss=loss, seed=0, device="cpu")
            hit = attacker.perturb(x[part].contiguous(), y[part])
            with torch.no_grad():
                right_N[part] = classifier(hit).argmax(-1) == y[part]
        yield attack, counted.cost, right_N


def trained(trial: TrialConfig, name: str, work: Path) -> SelfSupervisedEncoder:
    path = work / f"{''.join(c if c.isalnum() else '_' for c in name)}.safetensors"
    if not path.exists():
        run = Trial(trial, load_splits(trial.data))
        run._evaluate = lambda: __import__("cfamc_ray.training.trial", fromlist=["x"]).NO_SCORES
        for row in run:
            print(
                f"{name}: epoch {row.epoch} of {trial.pretraining.epochs}, loss {row.loss:.4f}, {row.train_seconds:.0f} s",
                flush=True,
            )
        run.save_encoder(path)
    return load_encoder(path).float()


def run(part: int, parts: int, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["encoder"] for line in RESULTS.read_text().splitlines()} if RESULTS.exists() else set()
    for place, (name, trial) in enumerate(trials().items()):
        if place % parts != part - 1 or name in done:
            continue
        encoder = trained(trial, name, work)
        data = trial.data
        row = measure(name, encoder, load_splits(data).probe, load_test(data, images=IMAGES))
        with RESULTS.open("a") as file:
            file.write(json.dumps({**row, "environment": environment()}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cfamc_attacks")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in RESULTS.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    run(*map(int, options.part.split("/")), options.work)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| attack | mean gap | largest gap | Kendall's τ | cost |", "|---|---|---|---|---|"]
    worst = [100 * row["worst"][l2] / row["images"] for row in rows for l2 in row["worst"]]
    base = statistics.mean(row["left"]["cross-entropy, 10"]["cost"] for row in rows)
    for attack in rows[0]["left"]:
        left = [100 * row["left"][attack][l2] / row["images"] for row in rows for l2 in row["worst"]]
        gaps = [a - b for a, b in zip(left, worst, strict=True)]
        cost = statistics.mean(row["left"][attack]["cost"] for row in rows) / base
        tau = kendalltau(left, worst).statistic
        lines.append(f"| {attack} | {statistics.mean(gaps):.2f} | {max(gaps):.1f} | {tau:.3f} | {cost:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

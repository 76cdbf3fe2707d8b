"""Which cheap attack comes nearest to AutoAttack, for the robust accuracy of a search?

Sixteen small encoders (ResNet-18 of width 8 and 16, ViT; trained without perturbation and with ε of 2 to 16/255, with
1, 3 and 6 replays) on CIFAR-10, each with linear probes of five L2 strengths. Every attack gets the same 200 test
images at 4/255. Its gap is the accuracy that it leaves, minus that of the worst case: images that any attack of the
table breaks are broken, and on those that are left run 100 steps of APGD on the cross-entropy and 900 of targeted APGD,
the first two attacks of AutoAttack, and on some encoders FAB and Square, its other two. `margins` attacks the probes of
all strengths at once (`cfamc_ray/evaluation/margins.py`), its cost is divided among them.

    CFAMC_DATA=FOLDER python -m benchmarks.attacks [--part 1/2] [--work FOLDER]    # train and measure what is missing
    python -m benchmarks.attacks --table                                           # results as Markdown

FOLDER holds cifar10.npz. Finished encoders are skipped, so the script can be stopped and started again, and several
parts can run side by side: each appends to benchmarks/results/attacks.jsonl. Weights stay in the folder of `--work`.
An encoder takes about 6 minutes of one core to train and measure, with all of AutoAttack 15.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from benchmarks.recorded import add_sitting_options, append, missing, read
from cfamc_ray.config.trial import TrialConfig, lay_trials
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation.attacks import LOSSES, pgd
from cfamc_ray.evaluation.batches import encode, frozen
from cfamc_ray.evaluation.classifier import LinearClassifier, as_pixels
from cfamc_ray.evaluation.margins import attack_margins
from cfamc_ray.evaluation.probe import fit_path
from cfamc_ray.method.encoder import SelfSupervisedEncoder, load_encoder
from cfamc_ray.store.environment import environment
from cfamc_ray.training.trial import Trial

RESULTS = Path(__file__).parent / "results" / "attacks.jsonl"
EPSILON = 4 / 255
STRENGTHS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
COMPARED = (1e-2, 1e-1, 1.0)
"""Strengths whose probes are attacked by each attack alone."""
IMAGES, AT_ONCE = 200, 50
SMALL: dict[str, Any] = {
    "data": {"name": "cifar10", "pretrain_images": 2500, "probe_images": 5000, "validation_images": 0},
    "crops": {"views": 4},
    "pretraining": {"batch_images": 50, "precision": "auto"},
}
HIDDEN = {"prefeature_width": 512, "hidden_width": 512, "embedding_width": 128}
TRAINED = ((0, 3, 2), (2, 3, 2), (4, 6, 1), (8, 1, 4), (8, 3, 2), (16, 3, 2))
"""ε in grey levels, replays, epochs."""
KINDS: dict[str, tuple[dict[str, Any], tuple[tuple[int, int, int], ...]]] = {
    "resnet18, width 8": ({"width": 8}, TRAINED),
    "resnet18, width 16": ({"width": 16}, TRAINED),
    "vit": ({"architecture": "vit", "width": 16}, ((0, 3, 2), (4, 1, 4), (4, 3, 2), (8, 3, 2))),
}
STANDARD = ("resnet18, width 8, ε 0/255, m=3", "resnet18, width 16, ε 8/255, m=3", "vit, ε 4/255, m=3")
"""Encoders that all of AutoAttack's standard version attacks."""


def trials() -> dict[str, TrialConfig]:
    """The encoders to train, by name, in turns of the kinds."""
    by_kind = [
        [(f"{kind}, ε {epsilon}/255, m={m}", encoder, epsilon, m, epochs) for epsilon, m, epochs in trained]
        for kind, (encoder, trained) in KINDS.items()
    ]
    return {
        name: TrialConfig.model_validate(
            lay_trials(
                SMALL,
                {
                    "encoder": {**encoder, **HIDDEN},
                    "perturbation": {"epsilon": epsilon / 255} if epsilon else {"attack": "none"},
                    "pretraining": {"replays": m, "epochs": epochs},
                },
            )
        )
        for turn in zip_longest(*by_kind)
        for name, encoder, epsilon, m, epochs in filter(None, turn)
    }


class Counted(nn.Module):
    """A function of images that counts passes: a backward pass counts as one, as it computes no weights' gradient."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.passes = function, 0

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        self.passes += len(x) * (2 if torch.is_grad_enabled() else 1)
        return self.function(x)


def _dlr(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """The untargeted DLR loss (arXiv 2003.01690)."""
    ordered_NK = logits_NK.sort(-1).values
    return LOSSES["margin"](logits_NK, labels_N) / (ordered_NK[:, -1] - ordered_NK[:, -3] + 1e-12)


PGD: dict[str, list[tuple[str, int]]] = {
    "PGD-10, cross-entropy": [("cross_entropy", 10)],
    "PGD-10, margin": [("margin", 10)],
    "PGD-5, margin": [("margin", 5)],
    "PGD-20, margin": [("margin", 20)],
    "PGD-10, DLR": [("dlr", 10)],
    "PGD-5, cross-entropy, then margin": [("cross_entropy", 5), ("margin", 5)],
}
"""Losses and steps of each start; an image counts as broken at any step."""
APGD = {"APGD-10, cross-entropy": "ce", "APGD-10, DLR": "dlr"}
MARGINS = {f"margins-{3 * steps}": steps for steps in (3, 5, 10)}


def measure(name: str, encoder: SelfSupervisedEncoder, probe: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    """Images that each attack leaves, by strength, and its passes for a probe."""
    with frozen(encoder):
        classifier = LinearClassifier(encoder, nn.Identity())
        features_NF = encode(classifier, probe.images_NCHW, at_once=250)
        heads = fit_path(features_NF, probe.labels_N, classes=10, strengths=STRENGTHS, tolerance=1e-4, iterations=200)
        x, y = as_pixels(test.images_NCHW[:IMAGES], encoder), test.labels_N[:IMAGES]
        with torch.no_grad():
            clean_NL = torch.stack([head(classifier.features_of(x)).argmax(-1) == y for head in heads], 1)
        left: dict[str, dict[float, Tensor]] = {}
        passes: dict[str, float] = dict.fromkeys((*PGD, *APGD), 0.0)
        for attack, steps in MARGINS.items():
            counted = Counted(partial(logits_of, classifier, heads))
            found = attack_margins(
                counted,
                x,
                y,
                clean_NL,
                epsilon=EPSILON,
                steps=steps,
                generator=torch.Generator().manual_seed(0),
                at_once=AT_ONCE,
            )
            left[attack] = dict(zip(STRENGTHS, found.right_NL.unbind(1), strict=True))
            passes[attack] = counted.passes / len(STRENGTHS)
        worst = {}
        for l2 in COMPARED:
            classifier.head, clean_N = heads[STRENGTHS.index(l2)], clean_NL[:, STRENGTHS.index(l2)]
            for attack, paid, right_N in alone(classifier, x, y, clean_N):
                left.setdefault(attack, {})[l2] = right_N
                passes[attack] += paid / len(COMPARED)
            survivors = torch.stack([each[l2] for each in left.values()]).all(0).nonzero().squeeze(1)
            started = time.perf_counter()
            worst[l2] = strongest(classifier, x, y, survivors, whole=name in STANDARD)
            print(
                f"{name}, L2 {l2:g}: {worst[l2]} of {len(survivors)}, {time.perf_counter() - started:.0f} s", flush=True
            )
    return {
        "encoder": name,
        "images": IMAGES,
        "clean": {f"{l2:g}": int(clean_NL[:, STRENGTHS.index(l2)].sum()) for l2 in COMPARED},
        "left": {a: {f"{l2:g}": int(each[l2].sum()) for l2 in COMPARED} for a, each in left.items()},
        "worst": {f"{l2:g}": counts for l2, counts in worst.items()},
        "passes": passes,
    }


def logits_of(classifier: LinearClassifier, heads: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """Logits of all heads (N, L, K)."""
    features_NF = classifier.features_of(x)
    return torch.stack([head(features_NF) for head in heads], 1)


def alone(classifier: LinearClassifier, x: Tensor, y: Tensor, clean_N: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Each attack on one probe: its name, its passes, and which images it leaves."""
    from pyautoattack.autopgd_base import APGDAttack  # noqa: PLC0415

    LOSSES["dlr"] = _dlr
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
                    step_size=2.5 * EPSILON / steps,
                    generator=generator,
                    loss=loss,  # type: ignore[arg-type]
                    every_step=True,
                )
                with torch.no_grad():
                    right_N[part] = classifier(hit).argmax(-1) == y[part]
        yield attack, counted.passes, right_N
    for attack, loss in APGD.items():
        counted, right_N = Counted(classifier), clean_N.clone()
        for part in right_N.nonzero().squeeze(1).split(AT_ONCE):
            apgd = APGDAttack(counted, n_iter=10, norm="Linf", eps=EPSILON, loss=loss, seed=0, device="cpu")
            hit = apgd.perturb(x[part].contiguous(), y[part])
            with torch.no_grad():
                right_N[part] = classifier(hit).argmax(-1) == y[part]
        yield attack, counted.passes, right_N


def strongest(classifier: LinearClassifier, x: Tensor, y: Tensor, survivors: Tensor, *, whole: bool) -> dict[str, int]:
    """Number of survivors that AutoAttack leaves, after two of its attacks and, if `whole`, after all four."""
    from pyautoattack import AutoAttack  # noqa: PLC0415

    logging.getLogger("auto-attack").setLevel(logging.WARNING)
    stages: dict[str, list[Literal["apgd-ce", "apgd-t", "fab-t", "square"]]] = {"apgd": ["apgd-ce", "apgd-t"]}
    if whole:
        stages["standard"] = ["fab-t", "square"]
    left = {}
    for stage, attacks in stages.items():
        if len(survivors):
            attack = AutoAttack(classifier, device=torch.device("cpu"), eps=EPSILON, seed=0, version="standard")
            attack.attacks_to_run = attacks
            hit, _ = attack.run_standard_evaluation(x[survivors].contiguous(), y[survivors], batch_size=AT_ONCE)
            with torch.no_grad():
                survivors = survivors[classifier(hit).argmax(-1) == y[survivors]]
        left[stage] = len(survivors)
    return left


def trained(name: str, trial: TrialConfig, work: Path) -> SelfSupervisedEncoder:
    """The encoder of a trial, trained if its weights are not there yet."""
    path = work / f"{''.join(letter if letter.isalnum() else '_' for letter in name)}.safetensors"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        run = Trial(trial, load_splits(trial.data))
        for row in run:
            print(f"{name}: epoch {row.epoch}, {row.train_seconds:.0f} s", flush=True)
        run.save_encoder(path)
    return load_encoder(path).float()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sitting_options(parser)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cfamc_attacks")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = read(RESULTS)
    if options.table:
        print(table(rows))
        return
    torch.set_num_threads(1)
    known = {row["encoder"] for row in rows}
    for name, trial in missing(trials().items(), lambda cell: cell[0] in known, options):
        probe, test = load_splits(trial.data).probe, load_test(trial.data, images=IMAGES)
        row = measure(name, trained(name, trial, options.work), probe, test)
        append(RESULTS, {**row, "environment": environment()})


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Gap, order and cost of each attack over all encoders and strengths."""
    cases = [(row, l2) for row in rows for l2 in row["worst"]]
    worst = [100 * row["worst"][l2].get("standard", row["worst"][l2]["apgd"]) / row["images"] for row, l2 in cases]
    whole = [row["worst"][l2] for row, l2 in cases if "standard" in row["worst"][l2]]
    lines = [
        f"{len(rows)} encoders, {len(cases)} probes; on {len(whole)} of them FAB and Square broke "
        f"{sum(each['apgd'] - each['standard'] for each in whole)} of {sum(each['apgd'] for each in whole)} images.",
        "",
        "| attack | mean gap | largest gap | Kendall's τ | passes for a probe |",
        "|---|---|---|---|---|",
    ]
    for attack in rows[0]["left"]:
        left = [100 * row["left"][attack][l2] / row["images"] for row, l2 in cases]
        gaps = [ours - theirs for ours, theirs in zip(left, worst, strict=True)]
        paid = statistics.mean(row["passes"][attack] / row["passes"]["PGD-10, cross-entropy"] for row in rows)
        tau = kendalltau(left, worst).statistic
        lines.append(f"| {attack} | {statistics.mean(gaps):.2f} | {max(gaps):.1f} | {tau:.3f} | {paid:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

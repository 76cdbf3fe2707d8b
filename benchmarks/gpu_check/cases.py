"""What is run on the fake device: every recipe, what no recipe has, and evaluations; and what was found in each."""

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_check.fake import DEVICE, MEMORY_BYTES, eager, fake_cuda
from benchmarks.gpu_check.recorder import PACKAGE, Operation, Recorder
from cfamc_ray.config.attacks import PgdConfig
from cfamc_ray.config.heads import HEADS, ProbeConfig
from cfamc_ray.config.reading import resolve_protocol
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe, recipe_names
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import training_flops
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.training.throughput import random_splits
from cfamc_ray.training.trial import Trial

PAPER = "cf-amc-ssl"
MINIBATCHES = 2
"""Of an epoch where counts matter; the last one is counted, as the first also makes what is made once."""
FEW_PASSES = 2
"""Replays and attack passes where only their kind matters."""
DRAWN_ON_THE_HOST = ("crops.scale", "crops.ratio")
"""Keys that change numbers alone, and nothing of what is done on the device."""
BYTES_PER_SECOND = 3.0e12
"""That an H100 (SXM, HBM3) reads and writes; 3.35e12 at most."""
FLOPS_PER_SECOND = {torch.bfloat16: 800e12, torch.float32: 50e12, torch.float64: 50e12}
"""Of its matrix products, dense; at most 989e12, and 67e12 for the others (float32 without TF32)."""

Evaluation = Callable[[Trial], object]


@dataclass(frozen=True)
class Case:
    """What is run: an epoch of a trial, or an evaluation of its encoder as it is before.

    Attributes:
        config: of the trial.
        evaluation: None for an epoch.
        free_bytes: that the device says it has.
    """

    config: TrialConfig
    evaluation: Evaluation | None = None
    free_bytes: int = MEMORY_BYTES

    @property
    def passes(self) -> int:
        """Of a minibatch, forward and backward: its replays, and the attack's own."""
        return self.config.pretraining.replays + self.config.perturbation.attack_passes


class Work(NamedTuple):
    """What the device does for a pass over a minibatch; a pass is a replay, or one of an attack of its own."""

    operations: float
    read_bytes: float
    written_bytes: float
    flops: float
    ms: float
    """As `seconds` has them."""


class Found(NamedTuple):
    """What came of a case."""

    operations: list[Operation]
    problem: str
    """What it ended with; empty where it ran through."""

    def waits(self, *, inside: bool) -> Counter[str]:
        """Why and where the host waits, inside of loops in which it must not, or elsewhere."""
        return Counter(
            f"{each.at}: {each.wait} ({each.name}){f', inside the loop over {each.loop}' if each.loop else ''}"
            for each in self.operations
            if each.wait and bool(each.loop) == inside
        )

    @property
    def failures(self) -> list[str]:
        """All that must not be."""
        waits = [f"{what}, {count} times" for what, count in self.waits(inside=True).items()]
        return [self.problem, *waits] if self.problem else waits

    def work(self, passes: int, *, phase: str | None = None) -> Work:
        """Of one of the passes over the last minibatch; of a phase of it, where one is named."""
        inside = [each for each in self.operations if each.loop == "minibatches" and phase in (None, each.phase)]
        counted = [each for each in inside if each.minibatch == inside[-1].minibatch]
        return Work(
            len(counted) / passes,
            sum(each.read for each in counted) / passes,
            sum(each.written for each in counted) / passes,
            sum(each.flops for each in counted) / passes,
            1e3 * sum(map(seconds, counted)) / passes,
        )


def seconds(operation: Operation) -> float:
    """A lower bound: the memory's time or the matrix product's, whichever is longer; launches cost nothing here."""
    products = operation.flops / FLOPS_PER_SECOND.get(operation.dtype, FLOPS_PER_SECOND[torch.float32])
    return max((operation.read + operation.written) / BYTES_PER_SECOND, products)


def all_cases(recipe: str | None = None, overrides: Sequence[str] = ()) -> dict[str, Case]:
    """Cases by name; recipes that do the same on the device share one.

    Args:
        recipe: of which the cases are; None for all recipes, what no recipe has, and evaluations.
        overrides: ``KEY=VALUE`` of the trials.

    Raises:
        InputError: for a recipe or a key that there is not.
    """
    names: dict[tuple[Variant, TrialConfig], list[str]] = {}
    for name in recipe_names() if recipe is None else [recipe]:
        for variant in VARIANTS:
            config = _config(name, variant, overrides, whole=True)
            done = config.with_values({key: TrialConfig().value_of(key) for key in DRAWN_ON_THE_HOST})
            names.setdefault((variant, done), []).append(name)
    cases: dict[str, Case] = {}
    for (variant, _), alike in names.items():
        whole = PAPER in alike or recipe is not None
        case = Case(_config(alike[0], variant, overrides, whole=whole))
        if case not in cases.values():
            cases[f"{' = '.join(alike)}, {variant}"] = case
    if recipe is not None:
        return cases
    for name, changes in UNLIKE_RECIPES.items():
        cases[name] = Case(_config(PAPER, VARIANTS[0], [*changes, *overrides]))
    paper = _config(PAPER, VARIANTS[0], overrides)
    cases["images in the host's memory"] = Case(paper, free_bytes=0)
    return cases | {name: Case(paper, evaluation) for name, evaluation in EVALUATIONS.items()}


def _config(recipe: str, variant: Variant, overrides: Sequence[str], *, whole: bool = False) -> TrialConfig:
    tree: dict[str, Any] = {"name": recipe, "base": read_recipe(recipe).name, "variant": variant}
    trial = resolve_study(tree, overrides, source=f"recipe {recipe}").trial
    images = trial.pretraining.batch_images
    values = {"data.validation_images": 0, "data.pretrain_images": images * (MINIBATCHES if whole else 1)}
    if not whole:
        values["pretraining.replays"] = min(trial.pretraining.replays, FEW_PASSES)
        if trial.perturbation.attack_passes:
            values["perturbation.steps"] = min(trial.perturbation.attack_passes, FEW_PASSES)
    return eager(trial.with_values(values))


UNLIKE_RECIPES = {
    "activations computed again": ["pretraining.views_at_once=4", "pretraining.activation_checkpointing=true"],
    "activations of the attack computed again": [
        *("pretraining.views_at_once=4", "pretraining.activation_checkpointing=true", "perturbation.attack=pgd"),
        *("pretraining.replays=1", "perturbation.attack_in_train_mode=false"),
    ],
    "ViT, patches of 4": ["encoder.architecture=vit"],
    "ViT, patches of 16": ["encoder.architecture=vit", "encoder.stem=large"],
    "ResNet-18, large stem": ["encoder.stem=large"],
    "ResNet-50, small stem": ["encoder.architecture=resnet50"],
    "ResNet-50, large stem": ["encoder.architecture=resnet50", "encoder.stem=large"],
    "group norm": ["encoder.norm=group"],
    "float32": ["pretraining.precision=float32"],
    "plain SGD": ["optimizer.trust_coefficient=null"],
    "AdamW with a warm-up": ["optimizer.name=adamw", "optimizer.warm_up=0.2"],
    "balls in l2": ["perturbation.norm=l2", "perturbation.epsilon=1"],
}
"""The paper's recipe but for these keys."""


def _images() -> LabelledImages:
    return LabelledImages(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))


def _search(features: str, trial: Trial) -> None:
    """As after an epoch: two batches, three steps, two starts."""
    head, attack = ProbeConfig.model_validate({"features": features, "iterations": 3}), PgdConfig(steps=3, restarts=2)
    few = {"head": head, "batch_images": 2, "attack": attack}
    config = trial.config.evaluation.model_copy(update=few)
    search_scores(trial.trainer.encoder, _images(), _images(), classes=10, config=config, generator=torch.Generator())


FEW = [
    *("images=4", "batch_images=4", "epsilons=[8/255]", "autoattack_images=0", "attack.steps=2", "attack.restarts=1"),
    *("head.epochs=1", "head.batch_images=2", "head.iterations=3", "head.attack.steps=1"),
]


def _protocol(head: str, changes: Sequence[str], trial: Trial) -> None:
    protocol = resolve_protocol("standard", head=head, overrides=[*FEW, *changes])
    encoder, crops = trial.trainer.encoder, trial.config.crops
    list(run_protocol(encoder, _images(), _images(), classes=10, protocol=protocol, crops=crops))


EVALUATIONS: dict[str, Evaluation] = {
    "evaluation of a search": partial(_search, "prefeature"),
    "evaluation of a search, backbone's features": partial(_search, "backbone"),
    **{f"head {head}": partial(_protocol, head, []) for head in HEADS},
    "backbone's features": partial(_protocol, "standard", ["head.features=backbone"]),
    "crops in the evaluation": partial(_protocol, "published-crops", ["crops=2"]),
    "evaluation in l2": partial(_protocol, "adversarial", ["norm=l2", "epsilons=[0.5]"]),
    "fine-tuning": partial(
        _protocol,
        "standard",
        ["finetune.layers=all", "finetune.training=adversarial", "finetune.epochs=1", "finetune.batch_images=2"],
    ),
    "each crop attacked": partial(_protocol, "published-emp", ["crops=2", "attack_each_crop=true"]),
}
"""AutoAttack is not among them: it is another library's, and waits in every step."""


def run(case: Case) -> Found:
    """Run a case on the fake device."""
    splits = random_splits(case.config)
    training_flops(case.config)  # counted on another device, and remembered
    with fake_cuda(free_bytes=case.free_bytes) as recorder:
        try:
            trial = Trial(
                case.config, splits, context=DistributedContext(device=DEVICE), on_minibatch=partial(_count, recorder)
            )
            if case.evaluation is None:
                trial.run_epoch()
            else:
                case.evaluation(trial)
        except Exception as error:
            return Found(recorder.operations, _described(error))
    return Found(recorder.operations, "")


def _count(recorder: Recorder) -> None:
    recorder.minibatch += 1


def _described(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
    at = f"{frames[-1].filename.removeprefix(PACKAGE)}:{frames[-1].lineno}: " if frames else ""
    return f"{at}{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"

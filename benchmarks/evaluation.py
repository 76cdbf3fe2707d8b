"""What a search's evaluation costs: its parts, its attack, and its share of trials.

The attack, which attacks the probes of all L2 strengths at once, is compared with PGD-10 on one of them.

A space's first point is trained; then the parts of its evaluation take turns. With --study the share of evaluation in
the seconds of each trial of a finished study is listed too.

    python -m benchmarks.evaluation [--json FILE] [--repeats 5] [--space quickstart.yaml] [--study runs/quickstart]

Takes about a minute on 2 cores, with one thread as a trial of the study has.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.timing import parser, ratios, report, summary
from cfamc_ray.config.attacks import AttackConfig, PgdConfig
from cfamc_ray.config.reading import find_space
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import load_splits
from cfamc_ray.evaluation.batches import encode
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.operating_points import right_of, still_right_of
from cfamc_ray.evaluation.probe import fit_converged
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import read_trials
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.throughput import in_turns
from cfamc_ray.training.trial import Trial


def measure(study: StudyConfig, device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Seconds of the parts, and what either attack leaves right."""
    config = study.trial_at(next(SearchSpace(study).points()))
    splits = load_splits(config.data, judged_on=config.judged_on)
    trial = Trial(config, splits, context=DistributedContext(device=device))
    rows = list(trial)
    judged = config.evaluation
    encoder = trial.trainer.encoder.eval().requires_grad_(False)
    classifier = LinearClassifier(encoder, nn.Identity(), features=judged.head.features)
    features_NF = encode(classifier, splits.probe.images_NCHW)
    fit = partial(
        fit_converged,
        features_NF,
        splits.probe.labels_N.to(device),
        classes=splits.classes,
        config=judged.head,
    )
    heads, validation_NF = fit(), encode(classifier, splits.validation.images_NCHW)
    right_NL = right_of(heads, validation_NF, splits.validation.labels_N)[: judged.attacked_images]

    def left(attack: AttackConfig, count: int) -> torch.Tensor:
        return still_right_of(
            classifier,
            heads[:count],
            splits.validation,
            right_NL[:, :count],
            attack,
            epsilon=judged.epsilon,
            generator=torch.Generator().manual_seed(0),
        )

    works: dict[str, Callable[[], object]] = {
        "encode": lambda: encode(classifier, splits.probe.images_NCHW),
        "fit": fit,
        "predict": lambda: encode(classifier, splits.validation.images_NCHW),
        "attack": lambda: left(judged.attack, len(heads)),
        "PGD-10 on one probe": lambda: left(PgdConfig(), 1),
    }
    seconds = in_turns(works, repeats=repeats, device=device)
    return {
        "space": study.name,
        "epochs": len(rows),
        "train_seconds": rows[-1].train_seconds,
        "eval_seconds": rows[-1].eval_seconds,
        "seconds": {name: summary(taken) for name, taken in seconds.items()},
        "attack_ratio": ratios(seconds["attack"], seconds["PGD-10 on one probe"]),
        "images": {"attacked": len(right_NL), "right": right_NL.sum(0).tolist()},
        "left_right": {
            "attack": left(judged.attack, len(heads)).sum(0).tolist(),
            "PGD-10 on one probe": int(left(PgdConfig(), 1).sum()),
        },
    }


def shares(study: Path) -> dict[str, Any]:
    """Evaluation's share of the seconds of each finished trial."""
    rows = [trial.rows[-1] for trial in read_trials(study) if trial.status == "finished"]
    found = [row["eval_seconds"] / (row["eval_seconds"] + row["train_seconds"]) for row in rows]
    return {"study": study.name, "trials": len(found), "evaluation_share": summary(found)}


def main() -> None:
    options = parser(__doc__, repeats=5)
    options.add_argument("--space", default="quickstart.yaml")
    options.add_argument("--study", type=Path, metavar="FOLDER", help="of a finished study")
    arguments = options.parse_args()
    study, device = read_study(find_space(arguments.space)), torch.device(arguments.device)
    keep_freed_memory()
    torch.set_num_threads(study.resources.cpus_per_worker)
    found = measure(study, device, repeats=arguments.repeats)
    if arguments.study:
        found |= shares(arguments.study)
    report(found, device, arguments.json)


if __name__ == "__main__":
    main()

"""Train one configuration: python -m cfamc_ray.train --recipe cf-amc-ssl, or --trial runs/STUDY/trial_00007.

A training run is a study of one trial, so its folder is a study's; with one worker neither Ray nor Optuna is needed.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table

from cfamc_ray.checks import check_data, check_folder, driving
from cfamc_ray.command import add_run_options, exit_code, program, typed_again, whole_table
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study, resolve_study
from cfamc_ray.config.recipes import DIALECTS, Dialect, PublishedRow, read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.files import write_text
from cfamc_ray.machine import cores
from cfamc_ray.process import INTERRUPTED
from cfamc_ray.study.environment import environment
from cfamc_ray.study.images import found_from, note
from cfamc_ray.study.mirror import mirrored
from cfamc_ray.study.records import (
    STUDY,
    TrialFolder,
    damaged_records,
    read_config,
    read_trials,
    trial_name,
    write_config,
)
from cfamc_ray.study.repair import repair
from cfamc_ray.study.wording import show_value
from cfamc_ray.terminal import Detail, ProgressView, epoch_line, say


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, train, print; 0 when trained, 1 when it failed, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _list_recipes(arguments.dialect) if arguments.recipe == "list" else _train(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cfamc_ray.train",
        description="Train one configuration, as a recipe names it or a study tried it, and keep it.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", metavar="NAME", help="a published system, or list for a table of all")
    what.add_argument("--trial", type=Path, metavar="FOLDER", help="a trial of a study, such as runs/STUDY/trial_00007")
    parser.add_argument("--dialect", choices=DIALECTS, default=DIALECTS[0], help="sane, or published as released")
    parser.add_argument("--name", help="of the run and its folder (the recipe's)")
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="data-parallel workers; above 1 needs Ray")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it trains")
    add_run_options(
        parser, run="run", source="recipe", verbose="every epoch, with the optimizer's and the perturbation's state"
    )
    return parser


def _list_recipes(dialect: Dialect) -> int:
    from cfamc_ray.evaluation.cost import training_flops  # noqa: PLC0415 (torch is slow to import)

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    columns = ("CIFAR-10", "CIFAR-100", "minutes", "crop passes", "PFLOP")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    for name in recipe_names():
        recipe = read_recipe(name)
        trial, published = recipe.trial(dialect), recipe.published
        cells = (
            _published_row(published.cifar10) if published else "–",
            _published_row(published.cifar100) if published else "–",
            f"{published.minutes:g}" if published else "–",
            f"{trial.crop_passes:.3g}",
            f"{training_flops(trial) / 1e15:.3g}",
        )
        table.add_row(name, *cells, recipe.summary)
    print(whole_table(table))
    print("\nAccuracies in % as published: clean / under PGD at 4/255 / at 8/255; minutes on a GPU that is not named.")
    print(f"Crop passes and FLOPs of the dialect {dialect}, evaluation not counted.")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    study = _study_of(arguments)
    folder = (arguments.out / study.name).resolve()
    if arguments.dry_run:
        _print_plan(study)
        return 0
    try:
        with mirrored(folder, arguments.mirror):
            return _train_study(study, folder, arguments)
    except KeyboardInterrupt:
        print(f"\nInterrupted; every finished epoch is kept. Go on with\n  {_resume_command(arguments, folder)}")
        return INTERRUPTED


def _train_study(study: StudyConfig, folder: Path, arguments: argparse.Namespace) -> int:
    """Begin or go on."""
    if not check_folder(study, folder, resume=arguments.resume):
        others = any(text.startswith(("data.", "evaluation.transfer")) for text in arguments.overrides)
        of_trial = [arguments.trial.resolve().parent] if arguments.trial and not others else []
        digests = check_data(study, [study.trial], folder, *of_trial)
        with driving(folder):
            _open(folder, study)
            note(folder, digests, config=study)
            say(f"{study.name} → {folder}", arguments.detail)
            if not _run(study, folder, arguments):
                raise KeyboardInterrupt
    return _finish(study, folder)


def _study_of(arguments: argparse.Namespace) -> StudyConfig:
    """The run as a study of one trial."""
    import torch  # noqa: PLC0415 (slow to import, and not needed for the list)

    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: must be at least 1")
    gpu_is_here = torch.cuda.is_available()
    on_gpu = gpu_is_here if arguments.device == "auto" else arguments.device == "cuda"
    if on_gpu and not gpu_is_here:
        raise InputError("--device cuda: torch finds no GPU here; leave it out to train on the CPU")
    written = _trial_of_study(arguments) if arguments.trial else _recipe(arguments)
    tree = written | {
        "name": arguments.name or written["name"],
        "budget": {"trials": 1},
        "resources": {
            "workers_per_trial": arguments.workers,
            "cpus_per_worker": max(1, cores() // arguments.workers),
            "gpus_per_worker": 1.0 if on_gpu else 0.0,
        },
    }
    study = resolve_study(tree, arguments.overrides, source=str(arguments.trial or f"recipe {arguments.recipe}"))
    if (study.base, study.dialect) != (arguments.recipe, arguments.dialect):
        raise InputError("--set base, --set dialect: name them with --recipe and --dialect")
    if study.space:
        raise InputError("--set space: a run has no space to search; python -m cfamc_ray.tune has")
    if study.budget.trials != 1:
        raise InputError("--set budget.trials: a run is one trial; python -m cfamc_ray.tune trains several")
    if study.resources.workers_per_trial == 1:
        if arguments.address:
            raise InputError("--address: one worker needs no cluster; add --workers N")
        if study.resources.gpus_per_worker and not gpu_is_here:
            raise InputError("--set resources.gpus_per_worker: torch finds no GPU here; leave it out")
    return found_from(study, Path())


def _recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = read_recipe(arguments.recipe)
    suffix = "" if arguments.dialect == DIALECTS[0] else f"-{arguments.dialect}"
    known = {"base": recipe.name, "dialect": arguments.dialect, "question": recipe.summary}
    return {"name": recipe.name + suffix, **known}


def _trial_of_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a trial was, whatever recipe and dialect it came from."""
    path = arguments.trial.resolve()
    config = read_config(path.parent)
    record = next((record for record in read_trials(path.parent) if record.trial_id == path.name), None)
    if record is None:
        damaged = [
            f" ({found.path.name}: {found.why})" for found in damaged_records(path.parent) if path in found.path.parents
        ]
        remedy = f"name one such as {path.parent / trial_name(0)}"
        raise InputError(f"--trial {arguments.trial}: holds no trial{''.join(damaged)}; {remedy}")
    if arguments.dialect != DIALECTS[0]:
        raise InputError("--dialect: a trial has that of its study; leave it out")
    question = f"{record.trial_id} of {config.name}"
    trial = config.trial_at(record.point).model_dump(mode="json")
    return {"name": f"{config.name}-{record.trial_id}", "question": question, "trial": trial}


def _open(folder: Path, study: StudyConfig) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, study)
        write_text(folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from None


def _run(study: StudyConfig, folder: Path, arguments: argparse.Namespace) -> bool:
    """Train to the end; False after an interruption."""
    if study.resources.workers_per_trial > 1:
        from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (needs Ray)

        over = run_study(
            study,
            folder,
            address=arguments.address,
            detail=arguments.detail,
            view_on=partial(TrainingView, TrialFolder(folder, 0)),
        )
        return bool(over)
    import torch  # noqa: PLC0415

    from cfamc_ray.recording import run_recorded  # noqa: PLC0415
    from cfamc_ray.trial import Place  # noqa: PLC0415

    for line in repair(folder, lambda: {0: {}}):
        print(line, file=sys.stderr)
    place = Place(device=torch.device("cuda" if study.resources.gpus_per_worker else "cpu"))
    trial_folder = TrialFolder(folder, 0)
    with TrainingView(trial_folder, study, sys.stdout, detail=arguments.detail) as view:
        for _ in run_recorded(study, trial_folder, {}, place, on_minibatch=view.advance):
            view.show()
    return True


class TrainingView(ProgressView):
    """A run as it goes: its minibatches, and a line each `evaluation.every_epochs`.

    Args:
        folder: of the trial, whose rows are shown.
        study: of one trial.
        stream: what reaches the person.
        detail: a line each epoch where it is verbose.
    """

    def __init__(self, folder: TrialFolder, study: StudyConfig, stream: TextIO, *, detail: Detail = "normal") -> None:
        self.trial, self.folder, self.detail = study.trial, folder, detail
        record = folder.read()
        self.shown = len(record.rows) if record else 0
        total = self.trial.pretraining.epochs * self.trial.minibatches_per_epoch
        super().__init__("minibatches", total, stream, detail=detail)
        self.show()

    def show(self, *_: object) -> None:
        """Print the epochs that were written since the last call."""
        record = self.folder.read()
        for row in record.rows[self.shown :] if record else ():
            self.shown += 1
            if row["done"] or row["epoch"] % self.trial.evaluation.every_epochs == 0 or self.detail == "verbose":
                self.say(epoch_line(self.trial, row, detail=self.detail))
        self.move_to(self.shown * self.trial.minibatches_per_epoch)


def _finish(study: StudyConfig, folder: Path) -> int:
    record = TrialFolder(folder, 0).read()
    assert record is not None
    if record.status != "finished":
        print(f"{study.name} {record.status}: {record.reason}", file=sys.stderr)
        print(f"To begin anew, name another run with --name, or remove {folder}", file=sys.stderr)
        return 1
    seconds, device = record.value("train_seconds") + record.value("eval_seconds"), record.rows[-1].get("device", "–")
    print(
        f"\n{study.name}: {study.trial.pretraining.epochs} epochs, {record.value('crop_passes'):.3g} crop passes, "
        f"{record.value('flops') / 1e15:.3g} PFLOP, {show_value('seconds', seconds)} on {device}"
    )
    if math.isfinite(record.value("clean_accuracy")):
        print(
            f"On validation images: clean {show_value('accuracy', record.value('clean_accuracy'))}, "
            f"under PGD {show_value('accuracy', record.value('robust_accuracy'))}"
        )
    print(f"Encoder   {TrialFolder(folder, 0).encoder}")
    print(f"Evaluate  {shlex.join([program('python'), '-m', 'cfamc_ray.evaluate', str(folder)])}")
    print(f"Curves    {shlex.join([program('tensorboard'), '--logdir', str(folder)])}")
    return 0


def _print_plan(study: StudyConfig) -> None:
    from cfamc_ray.evaluation.cost import study_cost  # noqa: PLC0415

    print(dump_study(study))
    cost = study_cost([study.trial])
    evaluation = cost.evaluation()
    more = f"; {evaluation}" if evaluation else ""
    print(f"# {cost.crop_passes_mean:.3g} crop passes and {cost.flops_mean:.3g} FLOPs{more}")


def _published_row(row: PublishedRow) -> str:
    return " / ".join(f"{value:g}" for value in row)


def _resume_command(arguments: argparse.Namespace, folder: Path) -> str:
    words = ["--trial", str(arguments.trial)] if arguments.trial else ["--recipe", arguments.recipe]
    words += ["--dialect", arguments.dialect] if arguments.dialect != DIALECTS[0] else []
    words += ["--out", str(arguments.out)]
    words += ["--resume"] if (folder / STUDY).exists() else []
    words += ["--name", arguments.name] if arguments.name else []
    words += ["--workers", str(arguments.workers)] if arguments.workers > 1 else []
    words += ["--device", arguments.device] if arguments.device != "auto" else []
    return typed_again("cfamc_ray.train", words, arguments)


if __name__ == "__main__":
    sys.exit(main())

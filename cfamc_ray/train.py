"""Train one configuration: python -m cfamc_ray.train --recipe cf-amc-ssl, or --trial runs/STUDY/trial_00007.

A training run is a study of one trial, so its folder is a study's; with one worker neither Ray nor Optuna is needed.
"""

import argparse
import inspect
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from cfamc_ray.api import train
from cfamc_ray.cli.command import add_run_options, command_line, command_parser, exit_code, program, strengths_table
from cfamc_ray.cli.recipes import print_recipes
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.recipes import VARIANTS
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_seconds
from cfamc_ray.host.process import INTERRUPTED
from cfamc_ray.lifecycle.plans import PlannedStudy, plan_run
from cfamc_ray.lifecycle.sources import recipe_source, trial_source
from cfamc_ray.lifecycle.training import train_run
from cfamc_ray.store.layout import STUDY
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import TrialFolder, TrialRecord


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m cfamc_ray.train") -> int:
    """Parse, check, train, print; 0 when trained, 1 when it failed, 2 for bad input, 130 after Ctrl-C."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: print_recipes(arguments.variant) if arguments.recipe == "list" else _train(arguments))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Train one configuration, as a recipe names it or a study tried it, and keep it.",
        {
            "--recipe cf-amc-ssl": "the paper's system; cfamc recipes lists all",
            "--trial runs/quickstart/trial_00003": "a trial of a study again",
            "--recipe cf-amc-ssl --set data.name=digits": "on another data set",
            "--recipe cf-amc-ssl --workers 4 --resume": "on four GPUs, after an interruption",
        },
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", metavar="NAME", help="a published system, or list for a table of all")
    what.add_argument("--trial", type=Path, metavar="FOLDER", help="a trial of a study, such as runs/STUDY/trial_00007")
    parser.add_argument("--variant", choices=VARIANTS, default=VARIANTS[0], help="corrected, or published as released")
    parser.add_argument("--name", help="of the run and its folder (the recipe's)")
    parser.add_argument("--resume", action="store_true", help="resume an unfinished run")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="data-parallel workers; above 1 needs Ray")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it trains")
    add_run_options(
        parser, run="run", source="recipe", verbose="every epoch, with the optimizer's and the perturbation's state"
    )
    return parser


def _train(arguments: argparse.Namespace) -> int:
    source = (
        trial_source(arguments.trial, arguments.variant)
        if arguments.trial
        else recipe_source(arguments.recipe, arguments.variant)
    )
    run = plan_run(
        source,
        name=arguments.name,
        out=arguments.out,
        overrides=arguments.overrides,
        workers=arguments.workers,
        device=arguments.device,
        address=arguments.address,
    )
    if arguments.dry_run:
        _print_plan(run.config)
        return 0
    try:
        with mirrored(run.folder, arguments.mirror):
            record = train_run(
                run,
                resume=arguments.resume,
                same_images=source.studies_with_the_same_images(arguments.overrides),
                address=arguments.address,
                detail=arguments.detail,
            )
            return _print_result(run, record)
    except KeyboardInterrupt:
        print(f"\nInterrupted; every finished epoch is kept. Resume with\n  {_resume_command(arguments, run.folder)}")
        return INTERRUPTED


def _print_result(run: PlannedStudy, record: TrialRecord) -> int:
    study, folder = run.config, run.folder
    if record.status != "finished":
        print(f"{study.name} {record.status}: {record.reason}", file=sys.stderr)
        print(f"To begin anew, name another run with --name, or remove {folder}", file=sys.stderr)
        return 1
    seconds, device = record.value("train_seconds") + record.value("eval_seconds"), record.rows[-1].get("device", "–")
    print(
        f"\n{study.name}: {study.trial.pretraining.epochs} epochs, {record.value('crop_passes'):.3g} crop passes, "
        f"{record.value('flops') / 1e15:.3g} PFLOP, {format_seconds(seconds)} on {device}"
    )
    if math.isfinite(record.value("clean_accuracy")):
        _print_accuracies(study, record)
    print(f"Encoder   {TrialFolder(folder, 0).encoder}")
    print(f"Evaluate  {shlex.join([program('python'), '-m', 'cfamc_ray.evaluate', str(folder)])}")
    print(f"Curves    {shlex.join([program('tensorboard'), '--logdir', str(folder)])}")
    return 0


def _print_accuracies(study: StudyConfig, record: TrialRecord) -> None:
    """Print a line for each operating point."""
    evaluation, both = study.trial.evaluation, ("clean_accuracy", "robust_accuracy")
    points = ((each.l2, each.value(both[0]), each.value(both[1])) for each in record.each_point(both))
    table = strengths_table(evaluation.attack, evaluation.epsilon, evaluation.norm, points)
    print(f"On validation images, by the L2 strength of the linear probe:\n{table}")


def _print_plan(study: StudyConfig) -> None:
    from cfamc_ray.cost.work import study_cost  # noqa: PLC0415

    print(dump_study(study))
    cost = study_cost([study.trial])
    evaluation = cost.evaluation()
    more = f"; {evaluation}" if evaluation else ""
    print(f"# {cost.crop_passes_mean:.3g} crop passes and {cost.flops_mean:.3g} FLOPs{more}")


def _resume_command(arguments: argparse.Namespace, folder: Path) -> str:
    words = ["--trial", str(arguments.trial)] if arguments.trial else ["--recipe", arguments.recipe]
    words += ["--variant", arguments.variant] if arguments.variant != VARIANTS[0] else []
    words += ["--out", str(arguments.out)]
    words += ["--resume"] if (folder / STUDY).exists() else []
    words += ["--name", arguments.name] if arguments.name else []
    words += ["--workers", str(arguments.workers)] if arguments.workers > 1 else []
    words += ["--device", arguments.device] if arguments.device != "auto" else []
    return command_line(words, arguments)


class _Callable(ModuleType):
    """This module, which is `cfamc_ray.train` and can be called as the API's function of that name."""

    __call__ = staticmethod(train)
    __signature__ = inspect.signature(train)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())

"""Evaluate a trained encoder by a protocol: python -m cfamc_ray.evaluate runs/cf-amc-ssl --protocol standard."""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rich.table import Table

from cfamc_ray.api import evaluate
from cfamc_ray.cli.command import command_parser, exit_code, strengths_table, whole_table
from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.heads import HEADS
from cfamc_ray.config.protocol import COMPARED, PROTOCOLS, SELECTION, ProtocolConfig
from cfamc_ray.evaluation.measurement import MeanAccuracy
from cfamc_ray.formatting import format_quantity, format_radius, format_seconds
from cfamc_ray.lifecycle.evaluation import evaluate_run
from cfamc_ray.lifecycle.evaluation_plan import Plan, Run, planned_evaluations
from cfamc_ray.lifecycle.evaluation_record import Evaluation, L2Origin, Strength, published_row
from cfamc_ray.terminal import Detail, add_detail_options

ORIGINS: dict[L2Origin, str] = {
    "held_out": "chosen on held-out training images:",
    "run": "evaluation.head.l2 of the run",
    "protocol": "head.l2 of the protocol",
}
"""Where the L2 strength of a head comes from, in words."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m cfamc_ray.evaluate") -> int:
    """Parse, check, measure, print; 0 with a record, 1 where the result is not to be trusted, 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _evaluate(arguments))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Fit a head on a frozen encoder, or fine-tune both, and attack them on the test split, by a protocol.",
        {
            "runs/quickstart/trial_00003": "a trial of a study, by the standard protocol",
            "runs/cf-amc-ssl --protocol all": "a run by the standard and the published protocols",
            "runs/cf-amc-ssl --protocol corruptions": "under the fifteen common corruptions",
            "runs/cf-amc-ssl --protocol few-labels --set labels_per_class=1": "with one labelled image of each class",
            "runs/cf-amc-ssl --transfer cifar100 --set finetune.layers=all": "on other images, after fine-tuning",
            "cf-amc-ssl --untrained": "a recipe's initial weights, as a baseline",
            "runs/cf-amc-ssl --set autoattack_images=0 --set images=1000": "without AutoAttack, on fewer images",
        },
    )
    parser.add_argument(
        "run", metavar="RUN", help="folder of a run or of a trial; with --untrained also the name of a recipe"
    )
    parser.add_argument(
        "--protocol",
        choices=[*PROTOCOLS, "all"],
        default="standard",
        help="what is measured; all: the standard and the published ones",
    )
    parser.add_argument("--head", choices=HEADS, help="use another head than the protocol's")
    parser.add_argument("--untrained", action="store_true", help="evaluate the initial weights, as a baseline")
    parser.add_argument(
        "--transfer",
        metavar="DATA",
        help="fit the head and test on cifar10, cifar100, digits, npz:PATH or imagefolder:PATH",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to compute on")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a key of the protocol, or data.path, where the images are now",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        dest="plugins",
        help="import a module that registers an attack, for --set attack.name=NAME; repeatable",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file of the record (default: evaluations/… in the trial's folder)"
    )
    add_detail_options(parser, verbose="every setting of the protocol")
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    names = COMPARED if arguments.protocol == "all" else (arguments.protocol,)
    if arguments.out and len(names) > 1:
        raise InputError("--out: names one file, but --protocol all writes several records; leave one of them out")
    plans = planned_evaluations(
        arguments.run,
        names,
        head=arguments.head,
        overrides=arguments.overrides,
        transfer=arguments.transfer,
        untrained=arguments.untrained,
        device=arguments.device,
        plugins=arguments.plugins,
    )
    return max(_evaluate_by(plan, arguments.out, arguments.detail) for plan in plans)


def _evaluate_by(plan: Plan, out: Path | None, detail: Detail) -> int:
    found = evaluate_run(*plan, out=out, detail=detail)
    try:
        found.write()
    except InputError:
        print(json.dumps(found.record))  # what was computed is not lost
        raise
    _print_table(found.run, found.data, [mean for mean in found.means if not mean.of.corruption])
    _print_corruptions(found)
    if found.strength:
        _print_strength(found.strength, plan.protocol)
    print(f"\n{format_seconds(found.seconds)} on {found.record['device']}; record {found.path}")
    if found.problem:
        print(f"{found.run.name}: the result is not to be trusted. {found.problem}", file=sys.stderr)
    return 1 if found.problem else 0


def _print_table(run: Run, data: DataConfig, means: Sequence[MeanAccuracy]) -> None:
    row = published_row(run, data)
    published = {} if row is None else {0.0: row.clean, 4 / 255: row.robust_4, 8 / 255: row.robust_8}
    drawn = any(mean.spread is not None for mean in means)
    table = Table(box=None, pad_edge=False)
    table.add_column("attack", no_wrap=True)
    names = ["ε", "accuracy", *["± of draws"] * drawn, "95 % interval", "images", *["published"] * bool(published)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for mean in means:
        found = mean.of
        low, high = (format_quantity("fraction", bound) for bound in mean.interval)
        spread = [format_quantity("fraction", mean.spread)] * drawn
        cells = [format_quantity("fraction", mean.mean), *spread, f"{low} – {high}", str(found.images)]
        value = None if found.after or found.norm == "l2" else published.get(found.epsilon)
        beside = ["–" if value is None else f"{value:g} %"] if published else []
        table.add_row(found.title, format_radius(found.epsilon, found.norm) if found.epsilon else "–", *cells, *beside)
    print("\n" + whole_table(table))


def _print_corruptions(found: Evaluation) -> None:
    if not any(each.of.corruption for each in found.means):
        return
    table = Table("accuracy under corruption", box=None, pad_edge=False)
    for column in found.corruptions.columns:
        table.add_column(str(column), justify="right", no_wrap=True)
    for kind, *accuracies in found.corruptions.itertuples():
        table.add_row(kind.replace("_", " "), *(format_quantity("fraction", each) for each in accuracies))
    print("\n" + whole_table(table))


def _print_strength(strength: Strength, protocol: ProtocolConfig) -> None:
    print(f"\nL2 strength of the head: {strength.l2:g}, {ORIGINS[strength.origin]}")
    if strength.points:
        points = ((point.l2, point.clean_accuracy, point.robust_accuracy) for point in strength.points)
        print(strengths_table(SELECTION, protocol.epsilons[0], protocol.norm, points))


class _Callable(ModuleType):
    """This module, which is `cfamc_ray.evaluate` and can be called as the API's function of that name."""

    __call__ = staticmethod(evaluate)
    __signature__ = inspect.signature(evaluate)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())

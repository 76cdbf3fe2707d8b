"""Encoders between trials that share their first epochs: cfamc interpolate runs/STUDY [--share 0.5] [--trials 3 7]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code
from cfamc_ray.front.interpolation import extend_front
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.lifecycle.interpolation import SHARES, interpolate_trials
from cfamc_ray.store.records import read_config, read_trials


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc interpolate") -> int:
    """Make, measure, print; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _interpolate(arguments))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Make encoders whose weights lie between those of trials that share their first epochs, as forks do: batch "
        "norm is estimated anew on training crops, and nothing is trained. They are measured as trials are. What is "
        "there already is not made again.",
        {
            "runs/forks": "half-way between every two such trials whose encoders are kept",
            "runs/forks --share 0.25 --share 0.75": "at other places between them",
            "runs/forks --trials 3 7": "between two trials alone",
            "runs/forks/confirm": "between the fresh runs that confirm a front",
        },
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument(
        "--share",
        type=float,
        action="append",
        metavar="NUMBER",
        dest="shares",
        help="of the second trial's weights, between 0 and 1; repeatable (0.5)",
    )
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[], metavar="NUMBER", help="numbers of the only trials to consider"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to compute on")
    parser.add_argument(
        "--quiet", action="store_const", const="quiet", default="normal", dest="detail", help="say only the result"
    )
    return parser


def _interpolate(arguments: argparse.Namespace) -> int:
    warn_of_damage(arguments.study)
    made = interpolate_trials(
        arguments.study,
        shares=arguments.shares or SHARES,
        trials=arguments.trials,
        device=arguments.device,
        detail=arguments.detail,
    )
    extended = extend_front(read_config(arguments.study), read_trials(arguments.study), made)
    print("\n" + extended.sentence)
    if extended.members:
        print(f"{extended.table.title}:\n\n{extended.table.markdown()}", end="")
    return 0

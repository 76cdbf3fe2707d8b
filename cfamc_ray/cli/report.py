"""Write a study's report, finished or running: cfamc report runs/STUDY [--budget PASSES] [--paper]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.report.page import write_report
from cfamc_ray.store.layout import REPORT


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc report") -> int:
    """Compute, draw, write; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _write(arguments.study, arguments.budget, paper=arguments.paper))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Write report/report.html of a study: one file, with every figure and table beside it.",
        {
            "runs/quickstart": "of a study that has ended or still runs",
            "runs/quickstart --budget 20000": "with the best configuration for so many crop passes",
            "runs/quickstart --paper": "with figures for a paper, such as front_one.pdf for one column",
        },
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--budget", type=float, metavar="PASSES", help="crop passes that a recommended trial may take")
    parser.add_argument("--paper", action="store_true", help="every figure as PDF too, for one and two columns")
    return parser


def _write(study: Path, budget: float | None, *, paper: bool) -> int:
    warn_of_damage(study)
    with writing(study / REPORT):
        print(write_report(study, budget=budget, paper=paper))
    return 0

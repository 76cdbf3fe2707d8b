"""Fit and draw a scaling study, finished or running: cfamc scaling runs/scaling."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import read_resolved
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.lifecycle.plans import PlannedScaling
from cfamc_ray.lifecycle.scaling import ScalingResult, write_fits
from cfamc_ray.scaling.study import conclusions
from cfamc_ray.scaling.system import system_conclusions
from cfamc_ray.store.layout import LEARNING, SCALING, SYSTEM


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc scaling") -> int:
    """Read, fit, draw, print; 0 with fits, 1 without, 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _write(arguments.run))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Fit and draw a scaling study from what has finished.",
        {"runs/scaling": "tables, fits and figures of a run of cfamc scale"},
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    return parser


def _write(run: Path) -> int:
    if not (run / SCALING).is_file():
        raise InputError(f"{run}: holds no scaling study (there is no {SCALING} in it)")
    for part in (SYSTEM, LEARNING):
        warn_of_damage(run / part)
    with writing(run):
        result = write_fits(PlannedScaling(run, read_resolved(ScalingConfig, run / SCALING)))
    print_fits(result)
    return 0 if result.run.fitted else 1


def print_fits(result: ScalingResult) -> None:
    """Print the conclusions and the paths of tables, figures and report."""
    run, config = result.run, result.run.config
    if config.cells:
        print(f"\n{len(run.measured)} of {len(config.cells)} cells of {config.name} have been measured")
        print("\n".join(system_conclusions(run.system)))
    if config.learning_points:
        print(f"\n{len(run.trials.points)} of {len(config.learning_points)} trials of {config.name} have finished")
        print("\n".join(conclusions(run.learning)))
    print(f"\nTables   {', '.join(map(str, result.tables))}")
    if result.figures:
        print(f"Figures  {', '.join(map(str, result.figures))}")
    if result.report:
        print(f"Report   {result.report}")

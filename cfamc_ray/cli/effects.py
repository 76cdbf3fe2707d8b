"""Which key moves which objective of a study: cfamc effects runs/STUDY [--out FOLDER]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.figures.charts import importance_chart, slices_chart
from cfamc_ray.figures.static import draw, save_figure
from cfamc_ray.front.effects import effects_table, find_effects
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.store.layout import REPORT
from cfamc_ray.store.records import read_config, read_trials


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc effects") -> int:
    """Read, compute, print, draw; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _show(arguments.study, arguments.out or arguments.study / REPORT))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Which searched key moves which objective: importances, and trends with their intervals.",
        {"runs/quickstart": "print them, and draw them into the study's report"},
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where importance.png and slices.png go (report)")
    return parser


def _show(study: Path, folder: Path) -> int:
    config = read_config(study)
    warn_of_damage(study)
    effects = find_effects(config, read_trials(study))
    charts = (importance_chart(effects), slices_chart(effects, config.objectives))
    with writing(folder):
        for chart in charts:
            save_figure(draw(chart), folder / f"{chart.name}.png")
    print(effects_table(effects).markdown(), end="")
    print(*(folder / f"{chart.name}.png" for chart in charts), sep="\n")
    return 0

"""Draw the front of a study, finished or running: cfamc front runs/STUDY [--out FILE]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.figures.charts import front_chart
from cfamc_ray.figures.static import draw, save_figure
from cfamc_ray.front.front import find_front
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.store.layout import REPORT
from cfamc_ray.store.records import read_config, read_trials


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc front") -> int:
    """Read, compute, draw; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _draw(arguments.study, arguments.out or arguments.study / REPORT / "front.png"))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Draw the front of a study.",
        {"runs/quickstart --out front.pdf": "as a figure for a paper"},
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument(
        "--out", type=Path, help="the figure, as .png, .svg or .pdf (report/front.png in the study's folder)"
    )
    return parser


def _draw(study: Path, path: Path) -> int:
    config = read_config(study)
    warn_of_damage(study)
    front = find_front(config, read_trials(study))
    with writing(path):
        save_figure(draw(front_chart(front, title=config.question or config.name)), path)
    print(f"{front.size} on the front, hypervolume {front.hypervolume:.4g}: {path}")
    return 0

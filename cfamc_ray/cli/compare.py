"""Compare the fronts of studies with the first one's: cfamc compare runs/ONE runs/OTHER … [--out FILE]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.figures.charts import comparison_chart
from cfamc_ray.figures.static import draw, save_figure
from cfamc_ray.front.comparison import compare_studies
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.store.records import read_config, read_trials
from cfamc_ray.store.tables import Column, Table, metric_column


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc compare") -> int:
    """Read, compare, print, draw; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _compare(arguments.studies, arguments.out))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Compare the fronts of studies with that of the first.",
        {"runs/ONE runs/OTHER --out fronts.pdf": "two studies, with a figure of their fronts"},
    )
    parser.add_argument(
        "studies", nargs="+", type=Path, metavar="STUDY", help="folders of studies, finished or running"
    )
    parser.add_argument("--out", type=Path, help="a figure of the fronts, as .png, .svg or .pdf")
    return parser


def _compare(studies: Sequence[Path], out: Path | None) -> int:
    for folder in studies:
        warn_of_damage(folder)
    found = compare_studies([(read_config(folder), read_trials(folder)) for folder in studies])
    rows = [
        {
            "study": one.name,
            "finished": one.front.finished,
            "on_the_front": len(one.front.trials),
            "operating_points": len(one.front.members) if one.front.at_operating_points else None,
            "crop_passes": one.crop_passes,
            "hypervolume": one.front.hypervolume,
            "gain": one.gain,
            "low": one.interval[0],
            "high": one.interval[1],
            "significant": one.significant,
        }
        for one in found
    ]
    columns = [metric_column(name) if name == "crop_passes" else Column(name) for name in rows[0]]
    table = Table("compare", "", columns, rows)
    without = [] if any(row["operating_points"] for row in rows) else ["operating_points"]
    print(table.without(*without).markdown(), end="")
    print(f"Gain of hypervolume over {found[0].name}, with its 95 % bootstrap interval over trials.")
    if out:
        with writing(out):
            save_figure(draw(comparison_chart(found)), out)
        print(out)
    return 0

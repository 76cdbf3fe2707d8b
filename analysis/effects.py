"""Which key moves which objective of a study: python -m analysis.effects runs/STUDY [--out FOLDER]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.figures.charts import importance_chart, slices_chart
from cfamc_ray.figures.static import draw, save_figure
from cfamc_ray.study.effects import effects_table, find_effects
from cfamc_ray.study.records import read_config, read_trials


def main(argv: Sequence[str] | None = None) -> int:
    """Read, compute, print, draw; the exit code is 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.effects",
        description="Which searched key moves which objective: importances, and trends with their intervals.",
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where importance.png and slices.png go (report)")
    arguments = parser.parse_args(argv)
    try:
        config = read_config(arguments.study)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    effects = find_effects(config, read_trials(arguments.study))
    print(effects_table(effects).markdown(), end="")
    folder = arguments.out or arguments.study / "report"
    try:
        for chart in (importance_chart(effects), slices_chart(effects, config.objectives)):
            save_figure(draw(chart), folder / f"{chart.name}.png")
            print(folder / f"{chart.name}.png")
    except OSError as error:
        print(f"--out {folder}: cannot be written ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

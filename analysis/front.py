"""Draw the front of a study, finished or running: python -m analysis.front runs/STUDY [--out FILE]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.figures.charts import front_chart
from cfamc_ray.figures.static import draw, save_figure
from cfamc_ray.study.front import find_front
from cfamc_ray.study.records import read_config, read_trials


def main(argv: Sequence[str] | None = None) -> int:
    """Read, compute, draw; the exit code is 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.front", description="Draw the front of a study.")
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument(
        "--out", type=Path, help="the figure, as .png, .svg or .pdf (report/front.png in the study's folder)"
    )
    arguments = parser.parse_args(argv)
    try:
        config = read_config(arguments.study)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    front = find_front(config, read_trials(arguments.study))
    path = arguments.out or arguments.study / "report" / "front.png"
    try:
        save_figure(draw(front_chart(front, title=config.question or config.name)), path)
    except (ValueError, OSError) as error:
        print(f"--out {path}: cannot be written ({error})", file=sys.stderr)
        return 2
    points = f"{len(front.members)} point{'' if len(front.members) == 1 else 's'}"
    print(f"{points} on the front, hypervolume {front.hypervolume:.4g}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

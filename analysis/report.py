"""Write a study's report, finished or running: python -m analysis.report runs/STUDY [--budget PASSES]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Compute, draw, write; the exit code is 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write report/report.html of a study: one file, with every figure and table beside it.",
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--budget", type=float, metavar="PASSES", help="crop passes that a recommended trial may take")
    arguments = parser.parse_args(argv)
    try:
        path = write_report(arguments.study, budget=arguments.budget)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{arguments.study / 'report'}: cannot be written ({error})", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

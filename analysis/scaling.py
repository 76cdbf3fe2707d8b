"""Fit and draw a scaling study, finished or running: python -m analysis.scaling runs/scaling."""

import sys

from cfamc_ray.cli.scaling import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m analysis.scaling"))

"""Draw the front of a study, finished or running: python -m analysis.front runs/STUDY [--out FILE]."""

import sys

from cfamc_ray.cli.front import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m analysis.front"))

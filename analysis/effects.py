"""Which key moves which objective of a study: python -m analysis.effects runs/STUDY [--out FOLDER]."""

import sys

from cfamc_ray.cli.effects import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m analysis.effects"))

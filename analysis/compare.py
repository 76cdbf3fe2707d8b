"""Compare the fronts of studies with the first one's: python -m analysis.compare runs/ONE runs/OTHER … [--out FILE]."""

import sys

from cfamc_ray.cli.compare import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m analysis.compare"))

"""Write a study's report, finished or running: python -m analysis.report runs/STUDY [--budget PASSES]."""

import sys

from cfamc_ray.cli.report import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m analysis.report"))

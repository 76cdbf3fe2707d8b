"""How much of a front is luck: a small search on real CIFAR-10, its front trained anew and attacked in earnest.

    CFAMC_DATA=FOLDER python -m benchmarks.confirmation [--json FILE] [--out runs]

FOLDER holds cifar10.npz. The real command runs the study confirmation.yaml: 8 trials at quarter width, each judged on
validation images with one seed and five L2 strengths of the probe; then up to 12 operating points of its front with 3
fresh seeds, on 5,000 test images clean, 128 under PGD-20 and AutoAttack. It can be stopped and started again.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cfamc_ray.store.environment import environment
from cfamc_ray.store.records import read_trials

OBJECTIVES = ("clean_accuracy", "robust_accuracy")
SPACE = Path(__file__).with_suffix(".yaml")


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows with their numbers as numbers."""
    with path.open() as file:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the study lies")
    arguments = parser.parse_args()
    study = arguments.out / "confirmation"
    resume = ["--resume"] if read_trials(study) else []
    command = [sys.executable, "-m", "cfamc_ray.tune", "--space", str(SPACE), "--out", str(arguments.out), *resume]
    if code := subprocess.run(command, check=False).returncode:  # noqa: S603 (our own command)
        sys.exit(code)
    found = {
        "searched": [
            {"point": dict(record.point), "l2": record.l2, **{name: record.value(name) for name in OBJECTIVES}}
            for trial in read_trials(study)
            for record in trial.each_point(OBJECTIVES)
        ],
        "confirmed": read_csv(study / "confirm.csv"),
        "attainment": read_csv(study / "attainment.csv"),
        "environment": environment(),
    }
    text = json.dumps(found, indent=1) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()

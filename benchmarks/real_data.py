"""Accuracy on real images: free adversarial multi-crop pretraining against none, at equal crop passes.

A quarter-width ResNet-18 pretrains on 4,000 training images of CIFAR-10; a linear probe is fitted on 5,000 others and
scored on 1,000 test images, clean and under PGD-10 at 4/255, all of them stratified samples (results from before
2026-11-26: the first images of the files). Every cell is 288,000 crop passes, about 4 minutes on 2 cores. Finished
cells are skipped, so the script can be stopped and started again.

    CFAMC_DATA=FOLDER python benchmarks/real_data.py [--seeds 3] [--out benchmarks/results/real_data.json]

FOLDER holds cifar10.npz.
"""

import argparse
import json
import os
import platform
import statistics
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import Splits, load_splits, load_test
from cfamc_ray.training.allocator import keep_freed_memory
from cfamc_ray.training.trial import Trial

BASE = TrialConfig.model_validate(
    {
        "data": {
            "name": "cifar10",
            "pretrain_images": 4000,
            "probe_images": 5000,
            "probe_overlap": False,
            "validation_images": 1000,
        },
        "crops": {"views": 8},
        "encoder": {"width": 16, "prefeature_width": 512, "hidden_width": 512, "embedding_width": 128},
        "pretraining": {"batch_images": 50, "epochs": 3, "replays": 3},
        "evaluation": {"head": {"l2": 1e-2}, "attack": {"name": "pgd", "loss": "cross_entropy"}},
    }
)
METHODS = {
    "free m=3, epsilon 8/255": BASE,
    "no attack": BASE.with_values({"perturbation.attack": "none", "pretraining.replays": 1, "pretraining.epochs": 9}),
}


def read_splits() -> Splits:
    """Those of a trial, but scored on images of the test split, on purpose."""
    return replace(load_splits(BASE.data), validation=load_test(BASE.data, images=1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "real_data.json")
    arguments = parser.parse_args()
    record = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"cells": {}}
    keep_freed_memory()
    splits = read_splits()
    for method, config in METHODS.items():
        for seed in range(arguments.seeds):
            cell = f"{method}, seed {seed}"
            if cell in record["cells"]:
                continue
            *_, last = Trial(config.with_values({"seed": seed}), splits)
            record["cells"][cell] = {
                "method": method,
                "clean": last.clean_accuracy,
                "robust": last.robust_accuracy,
                "crop_passes": last.crop_passes,
                "train_seconds": round(last.train_seconds, 1),
                "precision": last.precision,
            }
            record |= {
                "date": date.today().isoformat(),
                "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {last.device}",
                "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            }
            record["summary"] = {method: summary(record["cells"], method) for method in METHODS}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            partial = arguments.out.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1) + "\n")
            partial.replace(arguments.out)
            print(f"{cell}: clean {last.clean_accuracy:.1%}, PGD-10 at 4/255 {last.robust_accuracy:.1%}", flush=True)
    print(json.dumps(record["summary"], indent=1))


def summary(cells: dict[str, dict[str, float | str]], method: str) -> dict[str, dict[str, float]]:
    chosen = [cell for cell in cells.values() if cell["method"] == method]
    out = {}
    for metric in ("clean", "robust"):
        values = [float(cell[metric]) for cell in chosen]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            out[metric] = {"median": statistics.median(values), "mean": statistics.mean(values), "sd": spread}
    return out


if __name__ == "__main__":
    main()

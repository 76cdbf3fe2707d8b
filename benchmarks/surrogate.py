"""A surrogate of real training: the accuracies of any point of the recorded space, and the noise of a fresh seed.

    python -m benchmarks.surrogate [--width 8] [--json FILE]     # how well it predicts points that it has not seen

It is fitted to the recorded trials of benchmarks/sobol_table.py: Gaussian processes of the principal components of the
curves of operating points, means over the seeds; and the covariance of what seeds add. The script leaves out each fifth
of the points in turn, and compares.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.recorded import read
from benchmarks.sobol_table import TABLE, sobol_study
from benchmarks.timing import report
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.gaussian_process import Process, principal_components
from cfamc_ray.space.encoding import encode

Array = npt.NDArray[np.float64]
ACCURACIES = ("clean_accuracy", "robust_accuracy")
FOLDS = 5


class Recorded(NamedTuple):
    """What was measured of N points with S seeds each, at L operating points."""

    points: list[Point]
    strengths: list[float]
    measured: list[Array]
    """Of each point, (S, 2 L): clean accuracies at every strength, then robust ones."""

    def some(self, places: Sequence[int]) -> "Recorded":
        """Some of the points."""
        return self._replace(points=[self.points[n] for n in places], measured=[self.measured[n] for n in places])


def read_recorded(width: int, table: Path = TABLE) -> Recorded:
    """The trials of an encoder width after their last epoch; those of the same point together."""
    by_point: dict[str, list[list[float]]] = defaultdict(list)
    strengths: list[float] = []
    for cell in read(table):
        if cell["width"] == width:
            curve: list[Mapping[str, float]] = cell["rows"][-1]["operating_points"]
            strengths = [each["l2"] for each in curve]
            values = [each[name] for name in ACCURACIES for each in curve]
            by_point[json.dumps(cell["point"], sort_keys=True)].append(values)
    return Recorded([json.loads(key) for key in by_point], strengths, [np.array(rows) for rows in by_point.values()])


class Surrogate:
    """True curves of points, and measured ones.

    Attributes:
        study: the space, with its constraints and costs.
        strengths: L2 strengths of the operating points.
        noise_KK: covariance that a seed adds, of clean accuracies at every strength and then robust ones.
    """

    def __init__(self, study: StudyConfig, recorded: Recorded) -> None:
        self.study, self.strengths = study, recorded.strengths
        self.noise_KK = seed_covariance(recorded.measured)
        X_NF = np.array([encode(study.space, point) for point in recorded.points])
        Y_NK = np.array([rows.mean(0) for rows in recorded.measured])
        share_N = np.array([1 / len(rows) for rows in recorded.measured])
        self._mean_K, components = principal_components(Y_NK)
        self._processes = [
            (Process.fit(X_NF, score_N, share_N * (shape_K @ self.noise_KK @ shape_K)), shape_K)
            for score_N, shape_K in components
        ]

    def truth(self, points: Sequence[Point]) -> Array:
        """Noise-free accuracies at every operating point, (N, L, 2): clean and robust, from 0 to 1."""
        X_NF = np.array([encode(self.study.space, point) for point in points])
        Y_NK = self._mean_K + sum(process(X_NF)[:, None] * shape_K for process, shape_K in self._processes)
        return self._as_curves(Y_NK)

    def measured(self, point: Point, source: np.random.Generator) -> Array:
        """Accuracies of one training with a fresh seed, (L, 2)."""
        clean_and_robust_K = self.truth([point])[0].T.ravel()
        noise_K = source.multivariate_normal(np.zeros(len(self.noise_KK)), self.noise_KK, method="eigh")
        found: Array = self._as_curves((clean_and_robust_K + noise_K)[None])[0]
        return found

    def _as_curves(self, Y_NK: Array) -> Array:
        curves: Array = Y_NK.reshape(len(Y_NK), 2, -1).swapaxes(1, 2).clip(0, 1)
        return curves


def seed_covariance(measured: Sequence[Array]) -> Array:
    """Pooled covariance of the seeds of each point around its mean, (K, K).

    Raises:
        ValueError: if no point has several seeds.
    """
    freedom = sum(len(rows) - 1 for rows in measured)
    if freedom < 1:
        raise ValueError("no point was trained with several seeds")
    left = np.concatenate([rows - rows.mean(0) for rows in measured])
    covariance_KK: Array = left.T @ left / freedom
    return covariance_KK


def check(study: StudyConfig, recorded: Recorded) -> dict[str, Any]:
    """How far predictions of left-out points are from their means over seeds, in points of accuracy.

    Returns:
        Of clean and of robust accuracy, over all strengths: root mean squared error, that which noise alone would
        give, the standard deviation of the points, and the share of their variance that is explained.
    """
    noise = np.diag(seed_covariance(recorded.measured)).reshape(2, -1).mean(1)
    errors, values, noises = [], [], []
    for fold in range(FOLDS):
        left_out = range(fold, len(recorded.points), FOLDS)
        kept = recorded.some([n for n in range(len(recorded.points)) if n % FOLDS != fold])
        predicted_NL2 = Surrogate(study, kept).truth([recorded.points[n] for n in left_out])
        for n, curve_L2 in zip(left_out, predicted_NL2, strict=True):
            rows = recorded.measured[n]
            true_L2 = rows.mean(0).reshape(2, -1).T
            errors.append(curve_L2 - true_L2)
            values.append(true_L2)
            noises.append(noise / len(rows))
    squared_2 = np.square(errors).mean((0, 1))
    variance_2 = np.var(values, axis=0).mean(0)
    return {
        name: {
            "error": 100 * float(np.sqrt(squared_2[k])),
            "error_of_noise": 100 * float(np.sqrt(np.mean(noises, axis=0)[k])),
            "spread": 100 * float(np.sqrt(variance_2[k])),
            "explained": float(1 - squared_2[k] / variance_2[k]),
        }
        for k, name in enumerate(ACCURACIES)
    }


def main() -> None:
    """Check the surrogate of the recorded table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    recorded = read_recorded(options.width)
    found = {"points": len(recorded.points), "trials": sum(map(len, recorded.measured))}
    found |= check(sobol_study(options.width), recorded)
    report(found, torch.device("cpu"), options.json)


if __name__ == "__main__":
    main()

"""Studies and trials made by hand."""

from typing import Any

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord

COST = {"crop_passes": 100, "flops": 10**9, "train_seconds": 2.0, "eval_seconds": 1.0, "peak_memory_bytes": 10**8}

CONDITIONAL = {
    "optimizer.trust_coefficient": {"choice": [None, 0.005]},
    "loss.name": {"choice": ["emp_ssl", "nt_xent"]},
    "loss.temperature": {"float": [0.1, 0.2]},
}
"""A space with null as a value, and a key that only one of the losses has."""


def study(**given: Any) -> StudyConfig:
    space = {"crops.views": {"int": [2, 40]}, "perturbation.epsilon": {"float": ["1/255", "16/255"]}}
    return StudyConfig.model_validate({"name": "made", "space": space, **given})


def row(epoch: int, *, done: bool = False, **metrics: object) -> dict[str, object]:
    return {"epoch": epoch, "done": done, "clean_accuracy": 0.5, "robust_accuracy": 0.25, **COST, **metrics}


def operating_point(l2: float, clean: float, robust: float) -> dict[str, float]:
    return {"l2": l2, "probe_accuracy": 1.0, "clean_accuracy": clean, "robust_accuracy": robust}


def record(number: int, *, status: Status = "finished", **metrics: object) -> TrialRecord:
    point = {"crops.views": number + 2, "perturbation.epsilon": 8 / 255}
    return TrialRecord(number, point, [row(1, done=status == "finished", **metrics)], status)


def curve(
    number: int, *points: tuple[float, float, float], status: Status = "finished", **metrics: object
) -> TrialRecord:
    """A trial with an operating point for each (L2 strength, clean accuracy, robust accuracy)."""
    given = [operating_point(*point) for point in points]
    _, clean, robust = max(points, key=lambda point: point[1] + point[2])
    balanced = {"clean_accuracy": clean, "robust_accuracy": robust, "operating_points": given}
    return record(number, status=status, **balanced, **metrics)

"""Results that the paper reports on a study's data set, to compare the study with."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

from cfamc_ray.config.recipes import read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig


class PublishedResult(NamedTuple):
    """A published system. It is a ResNet-18 at full width on all images: far more compute than most studies spend."""

    name: str
    values: Mapping[str, float]
    """Clean and robust accuracy, as fractions."""


def published_results(config: StudyConfig) -> list[PublishedResult]:
    """The systems whose accuracies are published for the study's data set and the ball of the attack.

    Args:
        config: of the study; its data set is recognised by its name or the name of its file.
    """
    trial = config.trial
    name = trial.data.name if trial.data.location is None else PurePath(trial.data.location).stem
    radius = next((r for r in (4, 8) if math.isclose(trial.evaluation.epsilon, r / 255)), None)
    if name not in ("cifar10", "cifar100") or radius is None or trial.evaluation.norm != "linf":
        return []
    systems = []
    for recipe in recipe_names():
        published = read_recipe(recipe).published
        if published is not None:
            row = published.cifar10 if name == "cifar10" else published.cifar100
            robust = row.robust_4 if radius == 4 else row.robust_8
            values = {"clean_accuracy": row.clean / 100, "robust_accuracy": robust / 100}
            systems.append(PublishedResult(recipe, values))
    return systems

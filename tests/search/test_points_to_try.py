"""The random points among which a sampler with a model chooses."""

import random
from typing import Any

import pytest
from asking import study_of

from cfamc_ray.search.candidates import COSTLY, longest_training, random_points
from cfamc_ray.space.search_space import SearchSpace

CAP = "crops.views * pretraining.epochs <= 12"
SPACE = {"crops.views": {"int": [2, 9]}, "pretraining.epochs": {"int": [1, 6]}}


def space_of(**given: Any) -> SearchSpace:
    return SearchSpace(study_of("front", **({"space": SPACE, "constraints": [CAP]} | given)))


@pytest.mark.parametrize(
    ("epochs", "views", "before", "after"),
    [
        ({"int": [1, 6]}, 3, 1, 4),
        ({"int": [1, 6]}, 2, 1, 6),
        ({"int": [1, 6]}, 5, 2, 2),
        ({"int": [1, 6]}, 9, 6, 6),
        ({"int": [1, 7], "step": 3}, 2, 1, 4),
        ({"choice": [4, 1, 2]}, 5, 1, 2),
        (3, 2, 3, 3),
    ],
    ids=["to the cap", "to the range's end", "at the cap", "not admitted", "steps", "choices", "constant"],
)
def test_training_is_as_long_as_the_constraints_admit(epochs: Any, views: int, before: int, after: int) -> None:
    space = space_of(space={"crops.views": {"int": [2, 9]}, "pretraining.epochs": epochs})
    point = {"crops.views": views, "pretraining.epochs": before}
    assert longest_training(space, point) == {"crops.views": views, "pretraining.epochs": after}


def test_a_space_without_epochs_has_no_longer_training() -> None:
    space = space_of(space={"crops.views": {"int": [2, 9]}}, constraints=[])
    assert longest_training(space, {"crops.views": 3}) == {"crops.views": 3}


def test_random_points_cannot_be_trained_longer_unless_cost_is_an_objective() -> None:
    space = space_of()
    points = random_points(space, [], seed=0)
    assert len(points) > 1
    assert all(longest_training(space, point) == point for point in points)
    costs = {"clean_accuracy": "maximize", "robust_accuracy": "maximize", "crop_passes": "minimize"}
    free = random_points(space_of(objectives=costs), [], seed=0)
    assert any(longest_training(space, point) != point for point in free)
    assert len(points) <= COSTLY * len(free) + 1


def test_what_is_longest_depends_on_the_other_keys_alone() -> None:
    space, source = space_of(), random.Random(0)  # noqa: S311 (no secret)
    drawn = [space.draw(source) for _ in range(100)]
    admitted = [point for point in drawn if space.admits(point)]
    assert 0 < len(admitted) < len(drawn)
    for point in admitted:
        views = point["crops.views"]
        assert isinstance(views, int)
        assert longest_training(space, point)["pretraining.epochs"] == min(12 // views, 6)

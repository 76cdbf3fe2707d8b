"""Stages: epochs of a trial that are trained with other values of some keys than its last epochs.

A fork is a trial of two stages, of which the first, the trunk, is that of another trial. Its point has, beside the
searched keys, those of its trunk: `trunk.epochs`, and values such as `trunk.pretraining.replays`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from cfamc_ray.config.types import Strict, plain

SECTIONS = ("crops.", "perturbation.", "loss.")
OTHERS = ("pretraining.replays",)
FIXED = ("crops.size", "loss.name")
CHANGEABLE = "only keys of crops (except size), perturbation and loss (except name), and pretraining.replays can"


def may_change(key: str) -> bool:
    """Whether a key may change between the stages of a trial.

    Those keys may that leave the images and the shape of the encoder as they are: crops except their size, the
    perturbation, the loss's weights, and the number of replays.
    """
    return key in OTHERS or (key.startswith(SECTIONS) and key not in FIXED)


class Stage(Strict):
    """The next epochs of a trial, trained with other values of some keys."""

    epochs: int = Field(ge=1)
    """Number of epochs."""
    values: Mapping[str, Any]
    """Dotted keys and their values in these epochs, such as `{pretraining.replays: 1}`: keys of crops (not
    `crops.size`), perturbation, loss (not `loss.name`), or `pretraining.replays`. Others are those of the trial."""

    @field_validator("values")
    @classmethod
    def _changeable(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        for key in values:
            if not may_change(key):
                raise ValueError(f"{key} cannot change between stages: {CHANGEABLE}")
        return {key: plain(value) for key, value in values.items()}


TRUNK = "trunk."
TRUNK_EPOCHS = f"{TRUNK}epochs"


def fork_of(trunk: Mapping[str, Any], changes: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The point of a fork.

    Args:
        trunk: point of the trunk.
        changes: keys that the fork changes, and their new values.
        epochs: number of epochs of the trunk.
    """
    before = {f"{TRUNK}{key}": trunk[key] for key in changes}
    return {**trunk, **changes, TRUNK_EPOCHS: epochs, **before}


def without_trunk(point: Mapping[str, Any]) -> dict[str, Any]:
    """The searched keys of a point; of a fork those of its last stage."""
    return {key: value for key, value in point.items() if not key.startswith(TRUNK)}


def trunk_part(point: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a point that tell its trunk; empty if it is no fork."""
    return {key: value for key, value in point.items() if key.startswith(TRUNK)}


def trunk_epochs(point: Mapping[str, Any]) -> int:
    """Number of epochs of a fork's trunk; 0 for a point that is no fork."""
    return int(point.get(TRUNK_EPOCHS, 0))


def trunk_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a fork's trunk."""
    return {**without_trunk(point), **_values_of_trunk(point)}


def stages_of(point: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The key `stages` of a point's trial; empty if the point is no fork.

    Raises:
        ValueError: if a trunk's epochs are missing.
    """
    if not trunk_part(point):
        return []
    if TRUNK_EPOCHS not in point:
        raise ValueError(f"{TRUNK_EPOCHS} is missing, the number of epochs of the trunk")
    return [{"epochs": point[TRUNK_EPOCHS], "values": _values_of_trunk(point)}]


def _values_of_trunk(point: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(TRUNK): value for key, value in trunk_part(point).items() if key != TRUNK_EPOCHS}

"""Stages: epochs of a trial that are trained with other values of some keys than its last epochs."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from cfamc_ray.config.types import Strict, plain

SECTIONS = ("crops.", "perturbation.", "loss.")
OTHERS = ("pretraining.replays",)
FIXED = ("crops.size", "loss.name")


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
                raise ValueError(
                    f"{key} cannot change between stages: only keys of crops (except size), perturbation and loss "
                    "(except name), and pretraining.replays can"
                )
        return {key: plain(value) for key, value in values.items()}

"""What trial.json says of a trial that began, and outcome.json of one that ended other than by finishing."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, get_args

from cfamc_ray.config.stages import without_trunk
from cfamc_ray.store.content import json_object
from cfamc_ray.store.stop_reason import StopKind

Status = Literal["finished", "stopped", "failed", "infeasible", "running"]


class Begun(NamedTuple):
    """What trial.json holds beside the trial's number."""

    point: Mapping[str, Any]
    source: str = ""
    """``STUDY/TRIAL_ID`` of the trial that a warm start copied."""
    trunk: str = ""
    """Id of the trial whose first epochs it took over."""
    trunk_epochs: int = 0
    """Number of these epochs."""


class Outcome(NamedTuple):
    """What outcome.json holds."""

    status: Status
    reason: str = ""
    kind: StopKind | None = None
    origin: str = ""


def dump_begun(number: int, begun: Begun) -> str:
    """The text of trial.json, without what a trial has not."""
    tree = {"number": number, **begun._asdict(), "point": dict(begun.point)}
    return json.dumps({key: value for key, value in tree.items() if value or key in ("number", "point")}) + "\n"


def parse_begun(text: str, number: int, keys: Collection[str] | None) -> Begun:
    """Read what `dump_begun` wrote.

    Args:
        text: of the file.
        number: of the trial, which must be the one in the file.
        keys: searched keys, which the point must have; None: they are not known.

    Raises:
        ValueError: if it is damaged, or that of another trial.
    """
    tree = json_object(text)
    point = tree.get("point")
    if not isinstance(point, dict) or not all(isinstance(value, int | float | str | None) for value in point.values()):
        raise ValueError("holds no point of a space")
    source, trunk = (tree.get(key, "") for key in ("source", "trunk"))
    if not isinstance(source, str) or not isinstance(trunk, str):
        raise ValueError("does not name the trial that it was copied from, or that it continues")
    if not isinstance(epochs := tree.get("trunk_epochs", 0), int) or epochs < 0:
        raise ValueError("does not tell how many epochs it took over")
    if tree.get("number") != number:
        raise ValueError("is that of another trial")
    if keys is not None and without_trunk(point).keys() != set(keys):
        raise ValueError("holds a point of another space")
    return Begun(point, source, trunk, epochs)


def parse_outcome(text: str) -> Outcome:
    """Read outcome.json.

    Raises:
        ValueError: if it is damaged.
    """
    tree = json_object(text)
    status, reason, kind, origin = (tree.get(key) for key in Outcome._fields)
    if status not in ("stopped", "failed", "infeasible") or not isinstance(reason, str):
        raise ValueError("does not say how the trial ended")
    if kind not in (None, *get_args(StopKind)) or not isinstance(origin, str | None):
        raise ValueError("gives a reason of no known kind")
    return Outcome(status, reason, kind, origin or "")

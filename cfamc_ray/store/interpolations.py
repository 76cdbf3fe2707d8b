"""Interpolations of a study: encoders between two of its trials, each in a folder with its probes and a JSON file.

The JSON file is written last, so a folder with one is whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cfamc_ray.host.files import write_text
from cfamc_ray.store.content import content_of, json_object
from cfamc_ray.store.epoch_rows import Row, dump_rows, parse_rows
from cfamc_ray.store.layout import INTERPOLATION, INTERPOLATIONS, interpolation_name


class Interpolation(NamedTuple):
    """An encoder whose weights lie between those of two trials, and what it reached."""

    first: int
    """Number of a trial."""
    second: int
    """Number of another trial."""
    share: float
    """Of the second trial's weights, between 0 and 1."""
    row: Row
    """Its metrics, as of a trial of one epoch."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return interpolation_name(self.first, self.second, self.share)


def read_interpolation(folder: Path) -> Interpolation | None:
    """The interpolation in a folder; None where it is missing or damaged."""
    return content_of(folder / INTERPOLATION, _parse)


def read_interpolations(study: Path) -> list[Interpolation]:
    """All interpolations of a study, by their trials and share."""
    return sorted(filter(None, map(read_interpolation, study.glob(INTERPOLATIONS))), key=lambda each: each[:3])


def write_interpolation(study: Path, interpolation: Interpolation) -> None:
    """Write its JSON file, after all others."""
    first, second, share, row = interpolation
    tree = {"first": first, "second": second, "share": share, "row": json.loads(dump_rows([row]))}
    write_text(study / interpolation.name / INTERPOLATION, json.dumps(tree) + "\n")


def _parse(text: str) -> Interpolation:
    tree: Mapping[str, Any] = json_object(text)
    first, second, share = (tree.get(name) for name in ("first", "second", "share"))
    if not (isinstance(first, int) and isinstance(second, int) and isinstance(share, float)):
        raise ValueError("does not name two trials and a share")
    (row,) = parse_rows(json.dumps(tree.get("row")))
    return Interpolation(first, second, share, row)

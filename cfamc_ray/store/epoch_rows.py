"""The rows of a trial's epochs.jsonl: one for each finished epoch."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from cfamc_ray.metrics import costs, results
from cfamc_ray.store.content import json_object

Row = Mapping[str, Any]


def dump_rows(rows: Iterable[Row]) -> str:
    """The rows as text; NaN and infinity are written as null."""
    return "".join(json.dumps(_without_nan(row)) + "\n" for row in rows)


def parse_rows(text: str) -> list[Row]:
    """Read what `dump_rows` wrote.

    Raises:
        ValueError: if it is damaged.
    """
    rows = [json_object(line) for line in text.splitlines()]
    if not rows or not all(isinstance(row.get("done"), bool) for row in rows):
        raise ValueError("holds no rows of epochs")
    if any(row.get("epoch") != number for number, row in enumerate(rows, start=1)):
        raise ValueError("lacks the row of an epoch")
    if not all(isinstance(row.get(name), int | float | None) for row in rows for name in (*results(), *costs())):
        raise ValueError("holds a metric that is no number")
    if not all(map(_has_operating_points, rows)):
        raise ValueError("holds an operating point without its accuracies")
    return list(rows)


def _has_operating_points(row: Row) -> bool:
    points = row.get("operating_points", [])
    names = ("l2", "clean_accuracy", "robust_accuracy")
    return isinstance(points, list) and all(
        isinstance(point, dict) and all(isinstance(point.get(name), int | float) for name in names) for point in points
    )


def _without_nan(row: Row) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}

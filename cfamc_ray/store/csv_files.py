"""Tables as CSV: written with every digit, and read back as far as they are whole."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cfamc_ray.store.content import content_of


def csv_text(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = ()) -> str:
    """Rows as CSV, with the columns of the first one unless others are named; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a table as `csv_text` writes it; an empty cell is an empty text.

    Raises:
        ValueError: where the text is no whole table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if not text.endswith("\n") or any(None in row or None in row.values() for row in rows):
        raise ValueError("lacks a cell")
    return rows


def read_csv(path: Path, numbers: Collection[str], *, or_empty: Collection[str] = ()) -> list[dict[str, Any]]:
    """Rows with numbers and None for an empty cell; no rows where the file is missing or damaged.

    Args:
        path: of the file.
        numbers: columns that must hold a finite number in every row.
        or_empty: columns that must hold a finite number or nothing.
    """
    return content_of(path, partial(_parse, numbers=numbers, or_empty=or_empty)) or []


def _parse(text: str, *, numbers: Collection[str], or_empty: Collection[str]) -> list[dict[str, Any]]:
    rows = csv_rows(text)
    if not all({*numbers, *or_empty} <= row.keys() for row in rows):
        raise ValueError("lacks a column")
    parsed = [{key: _value(cell) for key, cell in row.items()} for row in rows]
    wanted = [row[name] for row in parsed for name in (*numbers, *or_empty) if name in numbers or row[name] is not None]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in wanted):
        raise ValueError("holds no number where one must be")
    return parsed


def _value(text: str) -> int | float | str | None:
    if not text:
        return None
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text

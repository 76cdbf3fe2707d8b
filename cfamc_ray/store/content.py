"""What a text file of a study holds, and what is wrong with one that holds something else."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Content = TypeVar("Content")


class DamagedFile(NamedTuple):
    """A file that is there and does not hold what was written."""

    path: Path
    why: str


def content_of(path: Path, parse: Callable[[str], Content]) -> Content | None:
    """What a file holds; None where it is missing or damaged.

    Args:
        path: of a text file in UTF-8.
        parse: of the text to its content; raises ValueError for what was never written.
    """
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        return parse(path.read_text(encoding="utf-8"))
    return None


def damage_of(path: Path, parse: Callable[[str], object]) -> DamagedFile | None:
    """What is wrong with a file; None where it is whole or missing. Arguments as for `content_of`."""
    try:
        parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        return DamagedFile(path, str(error).splitlines()[0])
    return None


def json_object(text: str) -> dict[str, Any]:
    """The members of a JSON object.

    Raises:
        ValueError: where the text is none.
    """
    try:
        known = json.loads(text)
    except RecursionError:
        known = None
    if not isinstance(known, dict):
        raise ValueError("not a JSON object")
    return known

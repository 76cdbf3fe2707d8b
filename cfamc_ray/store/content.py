"""Parsing the text files of a study, and saying what is wrong with a damaged one."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Content = TypeVar("Content")


class DamagedFile(NamedTuple):
    """A file that exists and cannot be parsed."""

    path: Path
    why: str


def content_of(path: Path, parse: Callable[[str], Content]) -> Content | None:
    """The parsed content of a file; None where it is missing or damaged.

    Args:
        path: of a text file in UTF-8.
        parse: turns the text into its content; raises ValueError for a text that this package does not write.
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
        ValueError: where the text is no JSON object.
    """
    try:
        tree = json.loads(text)
    except RecursionError:
        tree = None
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    return tree

"""The exception for wrong input, whose message a person reads, and the suggestion of the nearest right name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class InputError(ValueError):
    """Wrong input from a person; the message names the file, the key, the value and what would be right.

    The commands print it without a traceback and exit with code 2.
    """


def nearest(name: str, known: Sequence[str], further: Sequence[str] = ()) -> str:
    """End of an error message about an unknown name: the most similar name, or all of `known`.

    Args:
        name: the unknown name.
        known: the names that are possible in its place.
        further: other names that may have been meant, too many to list.
    """
    close = difflib.get_close_matches(name, [*known, *further], n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Error message about an unknown name of a kind: the most similar known name, and all known names."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    nearest = f"did you mean {close[0]}? There" if close else "there"
    return f"there is no {kind} {name!r}: {nearest} are {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def message_of(problem: Mapping[str, Any]) -> str:
    """The message of one problem among pydantic's `ValidationError.errors()`."""
    return str(problem["msg"]).removeprefix("Value error, ")

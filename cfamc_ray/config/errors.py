"""The exception that is meant for people, and how it suggests the right name."""

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """What a person gave is wrong; the message names the file, the key, the value and what would be right.

    The commands print it without a traceback and exit with code 2.
    """


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown name: the known name that is most like it, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""The exception for wrong input, whose message a person reads, and the suggestion of the nearest right name."""

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """Wrong input from a person; the message names the file, the key, the value and what would be right.

    The commands print it without a traceback and exit with code 2.
    """


def nearest(name: str, known: Sequence[str]) -> str:
    """End of an error message about an unknown name: the most similar known name, or all known names."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""The one exception that is meant for people, and how other exceptions are told in a line."""


class InputError(ValueError):
    """What a person gave is wrong; the message names the file, the key, the value and what would be right.

    The commands print it without a traceback and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

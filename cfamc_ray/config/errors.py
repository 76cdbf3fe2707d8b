"""The one exception that is meant for people."""


class InputError(ValueError):
    """What a person gave is wrong; the message names the file, the key, the value and what would be right.

    The commands print it without a traceback and exit with code 2.
    """

"""Why something ended: a kind for code to compare, and a text for people."""

from typing import Literal, NamedTuple

StopKind = Literal[
    "trials",  # a study: as many trials as its budget has
    "budget",  # a study of which no further trial fits the budget, or a trial that does not fit
    "no_point",  # a study without an untried point that fits
    "plateau",  # a study whose front no longer grows
    "failed_alike",  # a study whose trials fail one after the other of the same cause
    "disk_full",  # a study without room for its files
    "memory",  # a trial that would need more memory than it may use
    "fell_behind",  # a trial that MO-ASHA stopped
    "time_limit",  # a trial that took too long
    "diverged",  # a trial whose loss or gradient is not finite
    "out_of_memory",  # a trial that met the end of the memory
    "error",  # a trial that an exception ended
    "crashed",  # a trial whose process received a signal such as SIGSEGV
    "killed",  # a trial whose process was ended from outside
]


class StopReason(NamedTuple):
    """Why a study ended, or why a trial was stopped, failed or refused."""

    kind: StopKind
    text: str
    """A sentence for people; no code looks into it."""
    origin: str = ""
    """Where an error or a crash came from: failures of the same kind and origin have the same cause."""

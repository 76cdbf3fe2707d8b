"""A command's process: the signals that end it, and output that cannot be written or has no letter for what is said."""

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from cfamc_ray.host.files import FULL

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
CLOSED = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has gone, or the terminal has."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POSTPONE_SECONDS = 0.1
"""After which a signal that came during an import is looked at again."""
MOST_POSTPONEMENTS = 200
"""In a row: a command may itself run during the import of somebody's module."""
_command = threading.Event()
"""Set while a command runs."""
_postponed: list[int] = []
_codes: list[int] = []
"""Exit codes of the signals that have interrupted the command."""

_actions: list[Callable[[], object]] = []
_lost: set[int] = set()
"""Descriptors of streams that a full disk had no room for."""


def is_command() -> bool:
    """Whether this process is a command's, which handles its signals, redirects its output and may end it.

    A program or notebook that calls the package keeps all of that to itself.
    """
    return _command.is_set()


def exit_code_of_interruption() -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return _codes[0] if _codes else INTERRUPTED


def before_end(action: Callable[[], object]) -> None:
    """Have something done also where `end_now` ends a command; of several actions the last one is done first."""
    if is_command():
        _actions.append(action)


def end_now(code: int) -> NoReturn:
    """End the process from any thread, after what `before_end` was given; nothing else is waited for.

    Args:
        code: exit code, unless a signal came before.
    """
    for action in reversed(_actions):
        with suppress(Exception):
            action()
    os._exit(_codes[0] if _codes else code)


def heed_signals() -> None:
    """Have a command take SIGTERM and SIGHUP for Ctrl-C from now on; Ray's own handlers undo it when it starts.

    During an import all three wait for its end, because a module that is half imported may swallow the interruption, or
    fail when Python ends.
    """
    if is_command() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            # nohup has SIGHUP ignored, and a shell that starts a command in the background SIGINT
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if len(_postponed) < MOST_POSTPONEMENTS and _imports(frame):
        _postponed.append(number)
        again = (threading.main_thread().ident, number)
        threading.Timer(POSTPONE_SECONDS, signal.pthread_kill, again).start()
        return
    _postponed.clear()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    _codes.append(128 + number)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)  # for which Tune may have a handler of its own


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in a frame or around it."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


@contextmanager
def signals_restored() -> Iterator[None]:
    """Give the signals that end a program, and those that Tune listens for, their handlers back at the end."""
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # one that is not Python's
                signal.signal(number, handler)


@contextmanager
def logging_to(handler: logging.Handler, *, name: str) -> Iterator[None]:
    """Send what a logger is told to one handler alone.

    Args:
        handler: closed at the end.
        name: of the logger.
    """
    logger = logging.getLogger(name)
    known = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = known
        handler.close()


class _Stderr(logging.Handler):
    """Says the message alone, on what stderr is then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def command_process() -> Iterator[None]:
    """Around a command: its signals are heeded, and what it says is never what ends it."""
    _codes.clear()
    _actions.clear()
    _lost.clear()
    _postponed.clear()
    with signals_restored(), logging_to(_Stderr(), name="cfamc_ray"):
        _command.set()
        try:
            heed_signals()
            with _lasting_streams():
                yield
        finally:
            _command.clear()


@contextmanager
def _lasting_streams() -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a standard stream that was closed stays taken: the next file to be opened must not get its place
    os.close(free)
    sys.stdout, sys.stderr = map(_lasting, streams)
    try:
        yield
    finally:
        sys.stdout.flush()
        if _lost:
            print("Some of the output is lost: there was no room for it on its disk", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


def _lasting(stream: TextIO | None) -> TextIO:
    """A standard stream that outlasts its reader; one that a program has put in its place stays as it is."""
    if stream is None:  # the command was started with the stream closed
        return lasting_stream(os.open(os.devnull, os.O_WRONLY), encoding="utf-8", close=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    if isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):  # without buffering there is no raw
        at_once = stream.line_buffering or stream.write_through
        return lasting_stream(stream.fileno(), encoding=stream.encoding, line_buffering=at_once)
    stream.reconfigure(errors="replace")
    return stream


def lasting_stream(descriptor: int, *, encoding: str, line_buffering: bool = False, close: bool = False) -> TextIO:
    """A text stream that goes on in silence once nobody reads it, and shows ``?`` for a letter that it cannot show.

    What a full disk has no room for is lost; what is written after it got room is kept.

    Args:
        descriptor: of the open file.
        encoding: of the text.
        line_buffering: whether every line is written at once.
        close: whether the file is closed with the stream.
    """
    file = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=close))
    return _Lasting(file, encoding=encoding, errors="replace", line_buffering=line_buffering)


class _Lasting(io.TextIOWrapper):
    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Write to nowhere what cannot be written: all that follows, or, where a disk is full, what is there now."""
        if error.errno not in (*CLOSED, *FULL):
            raise error
        with os.fdopen(os.dup(self.fileno()), "wb", 0) as kept, Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), self.fileno())
            super().flush()
            if error.errno in FULL:
                os.dup2(kept.fileno(), self.fileno())
                _lost.add(self.fileno())

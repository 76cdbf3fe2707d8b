"""The process of a command: signals that end it, and output streams that cannot be written or encoded."""

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
"""Codes of a pipe or terminal that was closed."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POSTPONE_SECONDS = 0.1
"""Seconds after which a signal that came during an import is handled again."""
MOST_POSTPONEMENTS = 200
"""Largest number of postponements in a row, because a command may itself run during an import."""
_command = threading.Event()
"""Set while a command runs."""
_postponed: list[int] = []
_codes: list[int] = []
"""Exit codes of the signals that have interrupted the command."""

_actions: list[Callable[[], object]] = []
_lost: set[int] = set()
"""Descriptors of streams whose output was lost because a disk was full."""


def is_command() -> bool:
    """Whether this process runs a command, which handles its signals, redirects its output and may end it.

    In a program or notebook that calls the package, none of this happens.
    """
    return _command.is_set()


def exit_code_of_interruption() -> int:
    """Exit code of an interrupted command: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return _codes[0] if _codes else INTERRUPTED


def before_end(action: Callable[[], object]) -> None:
    """Register an action that `end_now` runs before it ends a command; the last registered runs first."""
    if is_command():
        _actions.append(action)


def end_now(code: int) -> NoReturn:
    """End the process from any thread, after the actions of `before_end`, without waiting for anything else.

    Args:
        code: exit code, unless a signal came before.
    """
    for action in reversed(_actions):
        with suppress(Exception):
            action()
    os._exit(_codes[0] if _codes else code)


def heed_signals() -> None:
    """Make a command treat SIGTERM and SIGHUP as Ctrl-C from now on; Ray's own handlers undo this when Ray starts.

    During an import all three are postponed, because a partly imported module may swallow the interruption, or fail
    when Python ends.
    """
    if is_command() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            # nohup ignores SIGHUP, and a shell ignores SIGINT for a command in the background
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
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background command
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)  # Tune may have its own handler


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in a frame or in an outer frame."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


@contextmanager
def signals_restored() -> Iterator[None]:
    """Restore the handlers of signals that end a program or that Tune uses, at the end of the block."""
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
    """Send the messages of a logger to only one handler.

    Args:
        handler: the handler, closed at the end.
        name: name of the logger.
    """
    logger = logging.getLogger(name)
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before
        handler.close()


class _Stderr(logging.Handler):
    """Prints only the message, on the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def command_process() -> Iterator[None]:
    """Run a command: handle its signals, and never fail because of its output."""
    _codes.clear()
    _actions.clear()
    _lost.clear()
    _postponed.clear()
    with signals_restored(), logging_to(_Stderr(), name="cfamc_ray"):
        _command.set()
        try:
            heed_signals()
            with lasting_streams():
                yield
        finally:
            _command.clear()


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Standard streams that survive their readers, such as `head`, and a full disk."""
    streams = sys.stdout, sys.stderr
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # occupy closed standard streams, so that the next opened file does not get their descriptors
    os.close(free)
    sys.stdout, sys.stderr = map(_lasting, streams)
    try:
        yield
    finally:
        sys.stdout.flush()
        if _lost:
            print("Some of the output is lost, because its disk was full", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


def _lasting(stream: TextIO | None) -> TextIO:
    """A standard stream that survives its reader; a stream that a program has set does not change."""
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
    """A text stream that ignores a closed reader, and writes ``?`` for characters that it cannot encode.

    Output on a full disk is lost; output after space is available again is kept.

    Args:
        descriptor: descriptor of the open file.
        encoding: encoding of the text.
        line_buffering: whether every line is flushed at once.
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
        """Discard output that cannot be written: all further output, or only the buffered output if a disk is full."""
        if error.errno not in (*CLOSED, *FULL):
            raise error
        with os.fdopen(os.dup(self.fileno()), "wb", 0) as kept, Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), self.fileno())
            super().flush()
            if error.errno in FULL:
                os.dup2(kept.fileno(), self.fileno())
                _lost.add(self.fileno())

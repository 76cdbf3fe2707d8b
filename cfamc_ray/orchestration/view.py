"""The view of a running study, and the redirection of Ray's output."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_metric, format_point, format_seconds, format_value, sparkline
from cfamc_ray.front.growth import find_growth
from cfamc_ray.front.progress import Progress, running_trials
from cfamc_ray.host.process import lasting_stream
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.trial_tables import settings_of
from cfamc_ray.terminal import Detail, Update, console_on, epoch_line, in_place


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Redirect the output of this process and its children to a file; yield a stream that the person still sees.

    Ray prints from C++ and from child processes, so the file descriptors themselves are redirected.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    person = lasting_stream(os.dup(1), encoding=sys.stdout.encoding, close=True)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield person
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        person.close()


class StudyView:
    """The view of a running study: live on a terminal and in a notebook, otherwise a line per ended trial.

    Args:
        config: config of the study.
        stream: stream that the person sees.
        detail: quiet prints nothing; verbose also prints a line per point, epoch and end of a trial.
    """

    def __init__(self, config: StudyConfig, stream: TextIO, *, detail: Detail = "normal") -> None:
        self.config, self.detail = config, detail
        self.console = console_on(stream, detail)
        self._open = ExitStack()
        self._update: Update | None = None
        self._ended, self._growth = -1, ""
        self._printed: dict[int, int] | None = None

    def __enter__(self) -> "StudyView":
        self._update = self._open.enter_context(in_place(self.console))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show(self, progress: Progress, records: Sequence[TrialRecord]) -> None:
        """Update the view; where it is not live, only when another trial has ended."""
        if self.detail == "verbose":
            for line in self._news(records):
                self.say(line)
        ended = progress.ended + progress.others.get("refused", 0)
        news, self._ended = ended != self._ended, ended
        if self._update and news:
            self._growth = sparkline(find_growth(self.config, records).hypervolume)
        if self._update:
            self._update(_draw(self.config, progress, records, self._growth))
        elif news:
            self.console.print(_line(progress), soft_wrap=True)

    def say(self, line: str) -> None:
        """Print a line, above what is live."""
        self.console.print(line, soft_wrap=True, markup=False)

    def _news(self, records: Sequence[TrialRecord]) -> Iterator[str]:
        """Lines about the trials since the last call, without trials that ended before the first call."""
        if self._printed is None:
            self._printed = {record.number: _lines_of(record) for record in records if record.ended}
        for record in records:
            printed, lines = self._printed.get(record.number, 0), _lines_of(record)
            if lines > printed:
                yield from _story(self.config, record)[printed:]
                self._printed[record.number] = lines


def _lines_of(record: TrialRecord) -> int:
    return 1 + len(record.rows) + record.ended


def _story(config: StudyConfig, record: TrialRecord) -> list[str]:
    """Lines about a trial, to which later lines are only appended: its point, its epochs, its end."""
    trial = config.trial_at(record.point)
    point = format_point(settings_of(config, record), norms_of(config))
    lines = [point or "the only point", *(epoch_line(trial, row, detail="normal") for row in record.rows)]
    if record.ended:
        lines.append(record.status + (f": {record.reason}" if record.reason else ""))
    return [f"trial {record.number}: {line}" for line in lines]


def _draw(config: StudyConfig, progress: Progress, records: Sequence[TrialRecord], growth: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("", ProgressBar(total=progress.total, completed=progress.ended, width=40))
    table.add_row("trials", f"{progress.finished} of {progress.total} done, {_others(progress)}")
    for name, value in progress.best.items():
        table.add_row(f"best {find_metric(name).label}", format_value(name, value))
    table.add_row("front", f"{progress.front}, hypervolume {progress.hypervolume:.4g}  {growth}")
    for trial, where in running_trials(config, records):
        table.add_row(trial, where)
    table.add_row("time", f"{format_seconds(progress.seconds)}, about {format_seconds(progress.seconds_left)} left")
    title = Text(f"{config.name}: {config.question}" if config.question else config.name, style="bold")
    both = Table.grid()
    both.add_row(title)
    both.add_row(table)
    return both


def _line(progress: Progress) -> str:
    best = ", ".join(f"best {format_metric(name, value)}" for name, value in progress.best.items())
    return (
        f"{progress.finished} of {progress.total} trials done, {_others(progress)}; {best}; "
        f"front of {progress.front}, hypervolume {progress.hypervolume:.4g}; "
        f"{format_seconds(progress.seconds)}, about {format_seconds(progress.seconds_left)} left"
    )


def _others(progress: Progress) -> str:
    counts = {"running": progress.running, **progress.others}
    return ", ".join(f"{number} {word}" for word, number in counts.items())

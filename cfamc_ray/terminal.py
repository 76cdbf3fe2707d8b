"""Progress for a person: lines and, where a terminal or a notebook allows it, something that changes in place."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.formatting import format_count, format_quantity, format_radius, format_value
from cfamc_ray.store.records import TrialFolder

Detail = Literal["quiet", "normal", "verbose"]
"""How much is printed meanwhile; results and errors are always printed."""
Update = Callable[[Table], object]
"""Replaces the table that a person sees."""


def add_detail_options(parser: argparse.ArgumentParser, *, verbose: str) -> None:
    """``--quiet`` and ``--verbose`` of a command, as ``detail``.

    Args:
        parser: of the command.
        verbose: what it prints in addition, for the help text.
    """
    options = parser.add_mutually_exclusive_group()
    options.set_defaults(detail="normal")
    options.add_argument("--quiet", action="store_const", const="quiet", dest="detail", help="say only the result")
    options.add_argument("--verbose", action="store_const", const="verbose", dest="detail", help=f"say also {verbose}")


def say(line: str, detail: Detail) -> None:
    """Print a line about the progress, unless detail is quiet."""
    if detail != "quiet":
        print(line, flush=True)


def detail_words(detail: Detail) -> list[str]:
    """The command-line option for a detail; none for normal."""
    return [] if detail == "normal" else [f"--{detail}"]


def console_on(stream: TextIO, detail: Detail) -> Console:
    """What writes on a stream. A notebook's stream claims to be a terminal, but gets lines alone, as a file does."""
    terminal = False if _is_notebook() else None
    return Console(file=stream, highlight=False, quiet=detail == "quiet", force_jupyter=False, force_terminal=terminal)


class ProgressView:
    """Lines and a bar; lines only, without escape codes, where the stream is no terminal that can move its cursor.

    Args:
        what: name of the things that are counted.
        total: how many there are; 0: not known yet.
        stream: a terminal or file.
        detail: quiet: nothing is printed.
    """

    def __init__(self, what: str, total: int, stream: TextIO, *, detail: Detail = "normal") -> None:
        self.console = console_on(stream, detail)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())  # 40 columns hold them
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=2,
            disable=not is_live(self.console),
        )
        self._task = self._bar.add_task(what, total=total or None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, soft_wrap=True, markup=False)

    def advance(self, count: int = 1) -> None:
        """Increase the count."""
        self._bar.advance(self._task, count)

    def move_to(self, completed: int, *, what: str | None = None, total: int | None = None) -> None:
        """Set the count and, unless None, the name of what is counted and the total."""
        self._bar.update(self._task, completed=completed, description=what, total=total)


class TrainingView(ProgressView):
    """The progress of a training run: a bar over its minibatches, and a line every `evaluation.every_epochs` epochs.

    Args:
        folder: of the trial, whose rows are shown.
        study: of one trial.
        stream: a terminal or file.
        detail: verbose: a line every epoch.
    """

    def __init__(self, folder: TrialFolder, study: StudyConfig, stream: TextIO, *, detail: Detail = "normal") -> None:
        self.trial, self.folder, self.detail = study.trial, folder, detail
        record = folder.read()
        self.shown = len(record.rows) if record else 0
        total = self.trial.pretraining.epochs * self.trial.minibatches_per_epoch
        super().__init__("minibatches", total, stream, detail=detail)
        self.show()

    def show(self, *_: object) -> None:
        """Print the epochs that were written since the last call."""
        record = self.folder.read()
        for row in record.rows[self.shown :] if record else ():
            self.shown += 1
            if row["done"] or row["epoch"] % self.trial.evaluation.every_epochs == 0 or self.detail == "verbose":
                self.say(epoch_line(self.trial, row, detail=self.detail))
        self.move_to(self.shown * self.trial.minibatches_per_epoch)


def is_live(console: Console) -> bool:
    """Whether a console can show something that changes in place."""
    return console.is_interactive and not console.quiet


@contextmanager
def in_place(console: Console) -> Iterator[Update | None]:
    """Show a table that is replaced in place: on a terminal until the end, in the output of a notebook's cell for good.

    Args:
        console: of the stream that the person sees.

    Yields:
        What replaces the table; None where nothing can change in place.
    """
    if _is_notebook() and not console.quiet:
        from IPython.display import display  # noqa: PLC0415 (every notebook has it, and nothing else needs it)

        yield display(Table.grid(), display_id=True).update
    elif is_live(console):
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield partial(live.update, refresh=True)
    else:
        yield None


def _is_notebook() -> bool:
    return Console().is_jupyter


def epoch_line(trial: TrialConfig, row: Mapping[str, Any], *, detail: Detail) -> str:
    """The metrics of an epoch in a line.

    Args:
        trial: the trial's config.
        row: of the epoch; metrics that were not measured are left out.
        detail: verbose: with the state of the optimizer and the perturbation, and memory.
    """
    attack = f"{trial.evaluation.attack.label} at {format_radius(trial.evaluation.epsilon, trial.evaluation.norm)}"
    accuracies = {"clean": row["clean_accuracy"], attack: row["robust_accuracy"]}
    words = [f"loss {format_value('loss', row['loss'])}"]
    words += [f"{name} {format_quantity('fraction', value)}" for name, value in accuracies.items() if value is not None]
    words.append(f"{row['crop_passes_per_second']:,.0f} crop passes a second")
    if detail == "verbose":
        words.append(f"learning rate {row['learning_rate']:.3g}")
        if row["clipped_share"] is not None:
            words.append(f"{row['clipped_share']:.0%} of the layers' steps clipped")
        words.append(f"{row['delta_border_share']:.0%} of the perturbation at the border")
        words.append(f"{format_count(row['peak_memory_bytes'])}B of memory")
    return f"epoch {row['epoch']} of {trial.pretraining.epochs}: {', '.join(words)}"

"""Show how far a study is, from any terminal, while it runs or after it: cfamc status runs/STUDY [--watch]."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cfamc_ray.cli.command import command_parser, exit_code
from cfamc_ray.config.search import PROXY
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import format_metric, format_seconds, format_value, sparkline
from cfamc_ray.front.growth import Growth, find_growth
from cfamc_ray.front.progress import Progress, counts, progress_of, running_trials
from cfamc_ray.store.layout import CONFIRM, PRIOR
from cfamc_ray.store.lock import driver_of
from cfamc_ray.store.records import read_config, read_trials
from cfamc_ray.terminal import is_live

EVERY = 2.0
"""Seconds between two looks."""


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc status") -> int:
    """Read and print; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _show(arguments.study, watch=arguments.watch))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Show how far a study is: its running trials, its front and how that has grown.",
        {"runs/quickstart": "once", "runs/quickstart --watch": "until it has ended, or Ctrl-C"},
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--watch", action="store_true", help="show it again every two seconds, while it is worked on")
    return parser


def _show(study: Path, *, watch: bool) -> int:
    console = Console(highlight=False)
    if not watch or not is_live(console):
        console.print(_status(study))
        return 0
    with Live(_status(study), console=console, auto_refresh=False) as live:
        while driver_of(study):
            time.sleep(EVERY)
            live.update(_status(study), refresh=True)
    return 0


def _status(study: Path) -> Table:
    config, records, driver = read_config(study), read_trials(study), driver_of(study)
    growth = find_growth(config, records)
    progress = progress_of(config, records, seconds=growth.seconds[-1] if growth.seconds else 0.0, ended_before=0)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_row("study", f"{config.name}: {config.question}" if config.question else config.name)
    table.add_row("trials", counts(config, records))
    for name, words in _others(study):
        table.add_row(name, words)
    if growth.trials:
        line = sparkline(growth.hypervolume)
        table.add_row("front", f"{progress.front}, hypervolume {progress.hypervolume:.4g}  {line}")
        table.add_row("best", ", ".join(format_metric(name, value) for name, value in progress.best.items()))
        table.add_row("spent", _spent(config, growth, progress, running=driver is not None))
    for trial, where in running_trials(config, records):
        table.add_row(trial, where)
    table.add_row("at work", driver or "no process")
    return table


def _others(study: Path) -> Iterator[tuple[str, str]]:
    """The studies inside the study's folder: a cheaper one that runs first, and the confirmation."""
    for name, folder in (("proxy", study / PRIOR / PROXY), ("fresh runs", study / CONFIRM)):
        if folder.is_dir():
            yield name, counts(read_config(folder), read_trials(folder))


def _spent(config: StudyConfig, growth: Growth, progress: Progress, *, running: bool) -> str:
    """Crop passes and time of all trials and, while the study runs, how long the rest is expected to take."""
    passes, seconds = format_value("crop_passes", growth.crop_passes[-1]), format_seconds(progress.seconds)
    left = progress.seconds_left / config.resources.trials_at_once
    expected = f"; about {format_seconds(left)} left" if running and left else ""
    return f"{passes} crop passes, {seconds} of all trials{expected}"

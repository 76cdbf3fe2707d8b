"""Cells of a long benchmark, each measured once: in sittings, by processes side by side, and through kills."""

import argparse
import gzip
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Cell = TypeVar("Cell")


def append(path: Path, value: object) -> None:
    """Add a value as a line of JSON in one write: neither a kill nor another process can tear it.

    A file whose name ends in .gz gets a gzip member of its own for each value.
    """
    line = (json.dumps(value) + "\n").encode()
    path.parent.mkdir(exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, gzip.compress(line) if path.suffix == ".gz" else line)
    finally:
        os.close(file)


def read(path: Path) -> list[dict[str, Any]]:
    """All values of a file; empty where there is none."""
    if not path.exists():
        return []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def add_sitting_options(parser: argparse.ArgumentParser) -> None:
    """Let a process take a part of the cells, and stop in time."""
    parser.add_argument("--part", default="1/1", metavar="K/N", help="which of how many processes side by side this is")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no cell begins later")


def missing(cells: Iterable[Cell], is_known: Callable[[Cell], bool], options: argparse.Namespace) -> Iterator[Cell]:
    """The cells of this part that are not recorded, while the sitting lasts; says how many are left when it ends."""
    part, parts = map(int, options.part.split("/"))
    end = time.monotonic() + 60 * options.minutes
    todo = [cell for cell in list(cells)[part - 1 :: parts] if not is_known(cell)]
    for count, cell in enumerate(todo):
        if time.monotonic() > end:
            print(f"{len(todo) - count} of {len(todo)} are left: start the script again")
            return
        yield cell

"""Files of recorded trials that several processes extend, and a kill does not damage."""

import gzip
import json
import os
from pathlib import Path
from typing import Any


def append(path: Path, value: object) -> None:
    """Add a value in one write, as a gzip member of its own: neither a kill nor another process can tear it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, gzip.compress((json.dumps(value) + "\n").encode()))
    finally:
        os.close(file)


def read(path: Path) -> list[dict[str, Any]]:
    """All values of a file; empty where there is none."""
    if not path.exists():
        return []
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]

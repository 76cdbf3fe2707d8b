"""What a disk, a crash or another version can make of a file."""

import random
from collections.abc import Callable
from pathlib import Path

OTHER_SHAPE = {
    "study.yaml": b"name: other\nlaws: 3\n",
    "scaling.yaml": b"name: other\nlaws: 3\n",
    "epochs.jsonl": b'{"version": 9}\n',
    "test.json": b'{"version": "9", "results": [1, 2]}\n',
    "confirm.csv": b"seed,mean\n1,two\n",
    "attainment.csv": b"seed,mean\n1,two\n",
}
"""What a file of another version may hold; JSON files an object that means nothing here."""

DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "random": lambda path: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)),  # noqa: S311
    "other": lambda path: path.write_bytes(OTHER_SHAPE.get(path.name, b'{"version": 9, "known": [1, 2]}\n')),
    "missing": lambda path: path.unlink(),
}


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

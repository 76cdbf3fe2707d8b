"""Cells of long benchmarks: recorded in lines that several processes append, and measured once."""

import argparse
from pathlib import Path

import pytest

from benchmarks.recorded import add_sitting_options, append, missing, read


def sitting(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sitting_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", ["cells.jsonl", "cells.jsonl.gz"])
def test_what_is_appended_is_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "results" / name
    assert read(path) == []
    for seed in range(3):
        append(path, {"seed": seed, "curve": [0.5, 0.25]})
    assert read(path) == [{"seed": seed, "curve": [0.5, 0.25]} for seed in range(3)]


def test_parts_share_the_cells_whatever_is_known() -> None:
    """A cell belongs to the same part at each start, so two processes never measure the same one."""
    parts = [
        list(missing("abcdefg", known.__contains__, sitting("--part", f"{k}/2")))
        for k in (1, 2)
        for known in ("b", "ce")
    ]
    assert parts == [["a", "c", "e", "g"], ["a", "g"], ["d", "f"], ["b", "d", "f"]]


def test_a_sitting_that_is_over_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(missing("abc", "a".__contains__, sitting("--minutes", "-1"))) == []
    assert capsys.readouterr().out == "2 of 2 are left: start the script again\n"

"""The table of published systems: which cell counts, and what a curve adds to an ordering."""

import json
from pathlib import Path

import pytest

from benchmarks import published_systems
from benchmarks.published_systems import CURVES, accuracy, at_the_end, finished, verdict

BEST_CLEAN, BEST_ROBUST = CURVES


def cell(name: str, seed: int, clean: int, *curve: tuple[float, float]) -> dict[str, object]:
    points = [{"l2": place, "clean_accuracy": a, "robust_accuracy": b} for place, (a, b) in enumerate(curve)]
    measured = [{"attack": "none", "epsilon": 0.0, "images": 100, "right": clean}]
    return {"name": name, "seed": seed, "measured": measured} | ({"curve": points} if points else {})


def test_the_last_measured_cell_counts_and_of_a_system_with_curves_only_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cells.jsonl"
    cells = [cell("a", 0, 40), cell("a", 1, 41), cell("a", 0, 42, (0.4, 0.1)), cell("b", 0, 30), cell("b", 1, 31)]
    failed = {"name": "a", "seed": 0, "failure": "diverged"}
    file.write_text("".join(f"{json.dumps(each)}\n" for each in [*cells, failed]))
    monkeypatch.setattr(published_systems, "RESULTS", file)
    assert [(each["name"], each["seed"], accuracy(each, "clean"), "curve" in each) for each in finished()] == [
        ("a", 0, 42.0, True),
        ("b", 0, 30.0, False),
        ("b", 1, 31.0, False),
    ]
    assert verdict(finished(), "clean", "a", "b") == "measured differently | –"


def test_a_best_value_at_the_end_of_a_curve_is_a_lower_bound() -> None:
    grown, bent = cell("a", 0, 40, (0.4, 0.1), (0.3, 0.2)), cell("a", 1, 40, (0.4, 0.1), (0.3, 0.2), (0.2, 0.15))
    assert at_the_end([grown, bent], BEST_ROBUST)
    assert not at_the_end([bent], BEST_ROBUST)
    assert not at_the_end([grown, bent], BEST_CLEAN)
    assert not at_the_end([grown], "clean")


def test_each_accuracy_of_a_curve_is_that_of_its_best_strength() -> None:
    curved = cell("a", 0, 40, (0.44, 0.10), (0.42, 0.20))
    assert [accuracy(curved, column) for column in (BEST_CLEAN, BEST_ROBUST)] == pytest.approx([44.0, 20.0])


def test_curves_can_reverse_an_ordering_of_the_fixed_probe() -> None:
    ours = [cell("ours", seed, 44 + seed, (0.44 + seed / 100, 0.1)) for seed in range(3)]
    theirs = [cell("theirs", seed, 41 + seed, (0.47 + seed / 100, 0.1)) for seed in range(3)]
    assert verdict([*ours, *theirs], "clean", "ours", "theirs") == "+3.0 ± 0.0 | found"
    assert verdict([*ours, *theirs], BEST_CLEAN, "ours", "theirs") == "-3.0 ± 0.0 | reversed"


def test_cells_without_a_curve_decide_nothing_about_curves() -> None:
    cells = [cell(name, seed, 40) for name in ("ours", "theirs") for seed in range(3)]
    assert verdict(cells, BEST_CLEAN, "ours", "theirs") == "too few seeds | –"

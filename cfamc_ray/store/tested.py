"""Content of test.json: the accuracies of an encoder on the test split, at one or more operating points."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cfamc_ray.store.content import json_object

NOTES = ("problem", "protocol")
"""Texts of a test, which are written where they are not empty."""


class PointTest(NamedTuple):
    """Accuracies of an encoder on the test split, with a linear head of one L2 strength."""

    l2: float | None
    """L2 strength of the head; None for trials without operating points, which have a head of 1e-2."""
    sample: Mapping[str, Any]
    """Which test images these are, as `cfamc_ray.data.splits.describe_test` describes them."""
    accuracies: Mapping[str, float]
    """Fractions by attack, in the order of the attacks; an attack that did not end has none."""
    problem: str = ""
    """Why accuracies are missing; empty if none is."""
    protocol: str = ""
    """Digest of the protocol; empty in tests of older versions, which did not note it."""


def dump_tests(tests: Iterable[PointTest]) -> str:
    """The content of test.json."""
    points = [
        {
            "l2": test.l2,
            "test_sample": dict(test.sample),
            **test.accuracies,
            **{name: getattr(test, name) for name in NOTES if getattr(test, name)},
        }
        for test in tests
    ]
    return json.dumps({"operating_points": points}) + "\n"


def parse_tests(text: str) -> dict[float | None, PointTest]:
    """The tests that test.json holds, by L2 strength.

    A file of a study without operating points is one flat entry.

    Raises:
        ValueError: where the text is no content of test.json.
    """
    tree = json_object(text)
    entries = tree.get("operating_points", [tree])
    if not isinstance(entries, list) or not entries:
        raise ValueError("holds no accuracies")
    tests = [_parse_test(entry) for entry in entries]
    return {test.l2: test for test in tests}


def _parse_test(entry: object) -> PointTest:
    if not isinstance(entry, dict):
        raise ValueError("holds an operating point that is no JSON object")
    l2, sample, notes = entry.get("l2"), entry.get("test_sample", {}), {name: entry.get(name, "") for name in NOTES}
    others = {name: value for name, value in entry.items() if name not in ("l2", "test_sample", *NOTES)}
    if not (isinstance(l2, float | None) and isinstance(sample, dict)) or {*map(type, notes.values())} != {str}:
        raise ValueError("holds an operating point of another form")
    if not all(isinstance(value, float | None) for value in others.values()) or not (others or notes["problem"]):
        raise ValueError("holds no accuracies")
    accuracies = {name: value for name, value in others.items() if value is not None and math.isfinite(value)}
    return PointTest(l2, sample, accuracies, **notes)

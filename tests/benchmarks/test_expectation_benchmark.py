"""What the benchmark of expected values says of a choice."""

import pytest
from made_by_hand import record

from benchmarks.expectation import compare, judge, read_records, summary


def test_a_choice_is_judged_by_the_other_seed() -> None:
    chosen = [record(0, clean_accuracy=0.6, robust_accuracy=0.2), record(1, clean_accuracy=0.4, robust_accuracy=0.3)]
    other = [record(0, clean_accuracy=0.5, robust_accuracy=0.2), record(1, clean_accuracy=0.4, robust_accuracy=0.1)]
    found = judge(chosen, other, [0.0, 0.0])
    assert found["hypervolume"] == pytest.approx(0.5 * 0.2)
    assert found["clean_accuracy_optimism"] == pytest.approx(0.1)
    assert found["robust_accuracy_optimism"] == pytest.approx(0.2)
    assert found["error"] == pytest.approx(((0.1**2 + 0.2**2) / 4) ** 0.5)


def test_the_recorded_trials_are_paired_by_point_and_both_choices_see_the_same_ones() -> None:
    first, second = read_records()
    assert len(first) == len(second) == 136
    assert all(one.point == other.point for one, other in zip(first, second, strict=True))
    pair = compare([first, second], 24, 1)
    assert pair["measured"] != pair["expected"]
    assert compare([first, second], 7, 0)["measured"] == compare([first, second], 7, 0)["expected"], (
        "too few for a model"
    )


def test_differences_are_paired() -> None:
    pairs = [{"measured": {"error": 1.0 + n}, "expected": {"error": 0.5 + n}} for n in range(3)]
    found = summary(pairs)["error"]
    assert (found["measured"], found["expected"]) == (2.0, 1.5)
    assert found["change"] == pytest.approx([-0.5] * 3)
    assert found["by_seen_seed"] == {"measured": [2.0, 2.0], "expected": [1.5, 1.5]}

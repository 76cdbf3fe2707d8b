"""What a model expects of trials: less noise, the same trials, the same costs."""

from collections.abc import Sequence

import numpy as np
import pytest
from made_by_hand import curve, record, study

from cfamc_ray.front.expectation import FEWEST, as_measured, expected
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialRecord

CONFIG = study()
VIEWS = range(2, 41, 2)


def trials(noise: Sequence[float]) -> list[TrialRecord]:
    """Clean accuracy rises by 1 point with each view, robust accuracy falls, and both are noisy."""
    source = np.random.default_rng(0)
    made = []
    for number, views in enumerate(VIEWS):
        clean, robust = (
            truth + deviation * source.standard_normal()
            for truth, deviation in zip(truth_of(views), noise, strict=True)
        )
        one = record(number, clean_accuracy=clean, robust_accuracy=robust, crop_passes=100 * views)
        made.append(TrialRecord(number, {**one.point, "crops.views": views}, one.rows, "finished"))
    return made


def truth_of(views: int) -> tuple[float, float]:
    return 0.3 + 0.01 * views, 0.5 - 0.01 * views


def errors(records: Sequence[TrialRecord]) -> float:
    values = np.array([one.values(CONFIG.objectives) for one in records])
    return float(np.sqrt(((values - np.array([truth_of(views) for views in VIEWS])) ** 2).mean()))


def test_it_is_nearer_to_the_truth_than_what_was_measured() -> None:
    measured = trials((0.03, 0.03))
    found = expected(CONFIG, measured)
    assert errors(found) < 0.6 * errors(measured)
    assert [(one.number, one.point, one.value("crop_passes")) for one in found] == [
        (one.number, one.point, one.value("crop_passes")) for one in measured
    ]


def test_without_noise_it_is_what_was_measured() -> None:
    measured = trials((0.0, 0.0))
    assert errors(expected(CONFIG, measured)) < 1e-3


def test_a_lucky_trial_leaves_the_front() -> None:
    measured = trials((0.002, 0.002))
    lucky = record(5, clean_accuracy=0.75, robust_accuracy=0.6)
    measured[5] = TrialRecord(5, measured[5].point, lucky.rows, "finished")
    assert find_front(CONFIG, measured).trials == {5}
    found = find_front(CONFIG, expected(CONFIG, measured))
    assert len(found.members) > 5
    assert as_measured(measured, found.members[0]).rows == measured[found.members[0].number].rows


def test_of_few_trials_it_is_what_was_measured() -> None:
    measured = trials((0.03, 0.03))[: FEWEST - 1]
    assert expected(CONFIG, measured) == measured
    unfinished = [record(50 + n, status="stopped") for n in range(FEWEST)]
    assert expected(CONFIG, [*measured, *unfinished]) == [*measured, *unfinished]


def test_each_operating_point_is_expected_and_the_balanced_one_stays_the_trials_own() -> None:
    source = np.random.default_rng(1)
    measured = []
    for number, views in enumerate(VIEWS):
        noise = 0.02 * source.standard_normal()
        clean, robust = truth_of(views)
        points = [(l2, clean + noise - 0.05 * n, robust + noise + 0.02 * n) for n, l2 in enumerate((0.01, 0.1, 1.0))]
        one = curve(number, *points)
        measured.append(TrialRecord(number, {**one.point, "crops.views": views}, one.rows, "finished"))
    found = expected(CONFIG, measured)
    for one, before in zip(found, measured, strict=True):
        assert [point["l2"] for point in one.operating_points] == [0.01, 0.1, 1.0]
        assert one.value("clean_accuracy") == one.operating_points[0]["clean_accuracy"], "the first is the balanced one"
        assert before.value("clean_accuracy") == before.operating_points[0]["clean_accuracy"]
    drop = [one.operating_points[0]["clean_accuracy"] - one.operating_points[2]["clean_accuracy"] for one in found]
    assert drop == pytest.approx([0.1] * len(found), abs=1e-6), "what all curves share is no noise"
    spread = np.std(
        [one.operating_points[1]["robust_accuracy"] - truth_of(v)[1] for one, v in zip(found, VIEWS, strict=True)]
    )
    assert spread < 0.015
    point = found[3].each_point(CONFIG.objectives)[2]
    assert as_measured(measured, point).l2 == 1.0
    assert as_measured(measured, point).value("clean_accuracy") == measured[3].operating_points[2]["clean_accuracy"]


def test_an_accuracy_stays_between_0_and_1() -> None:
    made = [record(n, clean_accuracy=min(1.0, 0.2 * n), robust_accuracy=0.0) for n in range(12)]
    values = [one.values(CONFIG.objectives) for one in expected(CONFIG, made)]
    assert 0 <= np.min(values) <= np.max(values) <= 1

"""The comparison of a search at all strengths with one at a fixed strength."""

from pathlib import Path

import pytest
from made_by_hand import curve, study

from benchmarks.forks import volumes as volumes_by_share
from benchmarks.operating_points import fixed_copy, fresh_volumes, gain, volumes
from cfamc_ray.front.confirmation import FreshRun, confirm
from cfamc_ray.front.front import find_front
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_config, read_trials, write_config

OBJECTIVES = {"clean_accuracy": "maximize", "robust_accuracy": "maximize"}
CURVES = [
    curve(0, (0.01, 0.5, 0.1), (0.1, 0.45, 0.2), crop_passes=60),
    curve(1, (0.01, 0.4, 0.15), (0.1, 0.38, 0.3), crop_passes=30),
    curve(2, (0.01, 0.3, 0.05), (0.1, 0.2, 0.1), crop_passes=10),
]


def made(folder: Path, records: list[TrialRecord], crop_passes: int = 100) -> Path:
    folder.mkdir()
    write_config(folder, study(budget={"trials": len(records), "crop_passes": crop_passes}))
    for record in records:
        trial = TrialFolder(folder, record.number)
        trial.open(record.point)
        trial.write_rows(record.rows)
    return folder


def test_the_copy_holds_what_a_search_with_one_strength_would_have_seen(tmp_path: Path) -> None:
    whole = made(tmp_path / "made", CURVES)
    copy = fixed_copy(whole, 0.01)
    assert copy == fixed_copy(whole, 0.01) == tmp_path / "made_fixed"
    records = read_trials(copy)
    assert [record.values(OBJECTIVES) for record in records] == [[0.5, 0.1], [0.4, 0.15], [0.3, 0.05]]
    assert [[point["l2"] for point in record.operating_points] for record in records] == [[0.01]] * 3
    assert [record.operating_points for record in read_trials(whole)] == [list(r.operating_points) for r in CURVES]
    config = read_config(copy)
    assert len(find_front(config, records).members) == 2
    assert len(find_front(config, read_trials(whole)).members) == 3


def test_hypervolumes_of_a_seed_are_those_of_its_own_values() -> None:
    points = [point for record in CURVES[:1] for point in record.each_point(OBJECTIVES)]
    runs = {
        point.key: [
            FreshRun(seed, *[{"clean_accuracy": clean, "robust_accuracy": robust}] * 2)
            for seed, (clean, robust) in enumerate(values)
        ]
        for point, values in zip(points, ([(0.5, 0.1), (0.4, 0.1)], [(0.4, 0.2), (0.3, 0.3)]), strict=True)
    }
    confirmed = confirm(OBJECTIVES, points, runs)
    assert volumes(confirmed, (0.0, 0.0)) == pytest.approx({0: 0.5 * 0.1 + 0.4 * 0.1, 1: 0.4 * 0.1 + 0.3 * 0.2})
    assert volumes(confirmed, (0.3, 0.0)) == pytest.approx({0: 0.2 * 0.1 + 0.1 * 0.1, 1: 0.1 * 0.1})
    found = gain({0: 3.0, 1: 4.0}, {0: 2.0, 1: 4.0})
    assert found["by_seed"] == [1.5, 1.0]
    assert found["mean"] == 1.25
    low, high = found["interval"]
    assert (low + high) / 2 == pytest.approx(1.25)
    assert high - low == pytest.approx(2 * 12.706 * 0.25, rel=1e-3)


def test_fresh_trainings_are_compared_at_all_strengths_and_at_one_by_seed(tmp_path: Path) -> None:
    folder = made(tmp_path / "made", CURVES)
    inner = folder / "confirm"
    inner.mkdir()
    write_config(inner, study(space={"crops.views": {"int": [2, 40]}, "seed": {"choice": [5, 6]}}))
    for number, (record, seed) in enumerate([(CURVES[0], 5), (CURVES[1], 5), (CURVES[2], 6)]):
        trial = TrialFolder(inner, number)
        trial.open({"crops.views": record.point["crops.views"], "seed": seed})
        trial.write_rows(record.rows)
    one = fresh_volumes(folder, [0.01], (0.0, 0.0))
    assert one == pytest.approx({5: 0.5 * 0.1 + 0.4 * 0.05, 6: 0.3 * 0.05})
    every = fresh_volumes(folder, [0.01, 0.1], (0.0, 0.0))
    assert every == pytest.approx({5: 0.5 * 0.1 + 0.45 * 0.1 + 0.38 * 0.1, 6: 0.2 * 0.1 + 0.1 * 0.05})


def test_volumes_grow_with_what_was_paid(tmp_path: Path) -> None:
    folder = made(tmp_path / "made", CURVES)
    first = 0.5 * 0.1 + 0.45 * 0.1
    whole = first + 0.38 * 0.1
    assert volumes_by_share(folder, (0.0, 0.0)) == pytest.approx([0, 0, first, whole])

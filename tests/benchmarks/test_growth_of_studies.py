"""The benchmark of growth: its studies are what it says, and every number follows from a run."""

from pathlib import Path

import pytest

from benchmarks.growth import Times, made_up_study, measure, summarise
from cfamc_ray.front.front import find_front
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialFolder, read_config, read_trials


def test_a_made_up_study_has_ended_in_every_way_and_has_a_front(tmp_path: Path) -> None:
    config = made_up_study(tmp_path, 80)
    records = read_trials(tmp_path)
    assert read_config(tmp_path) == config
    assert [record.number for record in records] == list(range(80))
    assert all(SearchSpace(config).contains(record.point) for record in records)
    counts = {status: sum(record.status == status for record in records) for status in ("failed", "stopped")}
    assert counts["failed"] == 2
    assert 0 < counts["stopped"] <= 6
    assert all(record.ended and (record.rows or record.status == "failed") for record in records)
    assert 0 < len(find_front(config, records).members) < 40
    epochs = [config.trial_at(record.point).pretraining.epochs for record in records]
    for record, number in zip(records, epochs, strict=True):
        assert (len(record.rows) == number) is (record.status == "finished")


def test_the_seed_decides_a_study(tmp_path: Path) -> None:
    read = []
    for place, seed in enumerate((0, 0, 1)):
        made_up_study(tmp_path / str(place), 3, seed=seed)
        read.append([TrialFolder(tmp_path / str(place), number).read() for number in range(3)])
    assert read[0] == read[1] != read[2]


def test_the_largest_study_is_compared_with_the_smallest() -> None:
    found = summarise({100: [Times(4.0, 3.0), Times(6.0, 3.0), Times(5.0, 9.0)], 20: [Times(2.0, 1.0)] * 3})
    assert found["100"]["seconds"] == {"median": 5.0, "min": 4.0, "max": 6.0}
    assert found["20"]["processor_seconds"]["median"] == 1.0
    assert found["grown"] == {"seconds": 2.5, "processor_seconds": 3.0}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_measures_every_kind_at_every_size() -> None:
    found = measure([5, 3], repeats=1)
    for kind in ("rebuild", "reprint", "proposal"):
        assert list(found[kind]) == ["3", "5", "grown"]
        assert all(found[kind][trials]["seconds"]["median"] > 0 for trials in ("3", "5"))

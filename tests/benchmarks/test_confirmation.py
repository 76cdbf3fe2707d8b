"""The confirmation benchmark: its study is what it says, and its tables are read as numbers."""

from itertools import islice
from pathlib import Path

from benchmarks.confirmation import SPACE, read_csv
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace


def test_the_study_tries_each_of_8_points_at_48_000_crop_passes_and_confirms_with_3_seeds() -> None:
    config = read_study(SPACE)
    points = list(islice(SearchSpace(config).points(), 9))
    assert len(points) == 8 == config.budget.trials
    assert {config.trial_at(point).crop_passes for point in points} == {48_000}
    assert config.confirm is not None
    assert (config.confirm.seeds, config.confirm.attacked_images) == (3, 128)
    assert config.trial.encoder.width == 16, "a quarter of 64"


def test_tables_keep_their_words_and_read_their_numbers(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("trial_id,mean,low\ntrial_00001,0.5,\n")
    assert read_csv(table) == [{"trial_id": "trial_00001", "mean": 0.5, "low": ""}]

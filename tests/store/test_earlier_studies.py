"""Copies of earlier studies in the folder of the study that learns from them."""

from pathlib import Path

import pytest
from test_warm_start import POINT, make

from cfamc_ray.config.errors import InputError
from cfamc_ray.store.earlier import copy_earlier, read_earlier
from cfamc_ray.store.records import read_trials


def test_copies_hold_the_records_alone_and_outlive_their_sources(tmp_path: Path) -> None:
    sources, folder = [make(tmp_path / name, name=name) for name in ("one", "other")], tmp_path / "mine"
    whole = read_trials(sources[0])
    copy_earlier(folder, list(map(str, sources)))
    for source in sources:
        source.rename(source.with_name(f"{source.name}_gone"))
    copy_earlier(folder, list(map(str, sources)))  # again, as when the study is resumed
    first, second = read_earlier(folder)
    assert (first.name, second.name) == ("1_one", "2_other")
    assert (first.config.name, [*first.config.space]) == ("one", [*POINT])
    assert [*first.records] == whole
    files = {path.name for path in (folder / "prior" / "1_one").rglob("*") if path.is_file()}
    assert files == {"study.yaml", "trial.json", "epochs.jsonl", "outcome.json"}


def test_a_copy_that_was_interrupted_is_not_seen_and_made_again(tmp_path: Path) -> None:
    source, folder = make(tmp_path / "one", name="one"), tmp_path / "mine"
    draft = folder / "prior" / "draft"
    draft.mkdir(parents=True)
    (draft / "study.yaml").write_text((source / "study.yaml").read_text())
    assert read_earlier(folder) == []
    copy_earlier(folder, [str(source)])
    (only,) = read_earlier(folder)
    assert [record.number for record in only.records] == list(range(6))


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: holds no study"):
        copy_earlier(tmp_path / "mine", [str(tmp_path / "nothing")])
    assert read_earlier(tmp_path / "mine") == []

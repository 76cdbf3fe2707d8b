"""Images that the driver hands to Ray arrive as they are."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data import sources
from cfamc_ray.data.sources import read_source
from cfamc_ray.orchestration import images
from cfamc_ray.orchestration.images import share_sources, take_sources


def study(**given: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "made", "space": {"crops.views": {"int": [2, 4]}}, **given})


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of Ray's; what it hands out is read-only, as Ray's is."""
    kept: list[Any] = []

    def get(place: int) -> Any:
        classes, *arrays = kept[place]
        copies = [array.copy() for array in arrays]
        for copy in copies:
            copy.flags.writeable = False
        return classes, *copies

    monkeypatch.setattr(sources, "_held", {})
    ray = SimpleNamespace(put=lambda value: kept.append(value) or len(kept) - 1, get=get)  # type: ignore[func-returns-value]
    monkeypatch.setattr(images, "ray", ray)
    return kept


@pytest.mark.filterwarnings("error")
def test_a_worker_reads_what_the_driver_has_read() -> None:
    config = study(trial={"data": {"name": "digits"}})
    shared = share_sources(config)
    before = read_source(config.trial.data)
    take_sources(shared)
    after = read_source(config.trial.data)
    assert after is not before
    assert after.classes == 10
    for one, other in ((before.train, after.train), (before.test, after.test)):
        assert torch.equal(one.images_NCHW[:], other.images_NCHW[:])
        assert torch.equal(one.labels_N, other.labels_N)


def test_a_data_set_is_shared_once_and_one_to_judge_by_beside_it() -> None:
    assert len(share_sources(study(trial={"data": {"name": "digits"}}))) == 1
    judged = {"data": {"name": "digits"}, "evaluation": {"transfer": {"name": "digits", "image_size": 16}}}
    assert [packed.unpack().resized for packed, _ in share_sources(study(trial=judged))] == [32, 16]


def test_a_folder_of_images_stays_where_it_is() -> None:
    folder = {"name": "imagefolder", "path": "somewhere", "image_size": 32}
    assert share_sources(study(trial={"data": folder})) == []

"""What memory a worker may use, by which a search refuses points."""

import math

import pytest

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.orchestration import run
from cfamc_ray.orchestration.run import _memory_of_worker


@pytest.mark.parametrize(
    ("resources", "address", "expected"),
    [
        ({}, None, 6_000_000),
        ({"trials_at_once": 2}, None, 3_000_000),
        ({"trials_at_once": 2, "workers_per_trial": 3}, None, 1_000_000),
        ({"trials_at_once": 2}, "auto", math.inf),
        ({"memory_gb_per_worker": 0.5, "trials_at_once": 2}, None, 5e8),
        ({"memory_gb_per_worker": 0.5}, "auto", 5e8),
        ({"gpus_per_worker": 1}, "auto", math.inf),
    ],
)
def test_it_is_what_the_study_says_or_a_share_of_what_this_machine_allows(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], address: str | None, expected: float
) -> None:
    monkeypatch.setattr(run, "memory_bytes", lambda: 6_000_000)
    trial = {"pretraining": {"batch_images": 60}}
    config = StudyConfig.model_validate({"name": "made", "resources": resources, "trial": trial})
    assert _memory_of_worker(config, address) == expected

"""Placement groups whose creator has died are removed, and no others."""

from collections.abc import Iterator

import pytest
import ray
from processes import wait_until
from ray.util.placement_group import placement_group

from cfamc_ray.orchestration.orphans import remove_orphaned_groups

pytestmark = pytest.mark.slow


@pytest.fixture
def two_places() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Creator:
    def create(self) -> bool:
        return bool(placement_group([{"CPU": 1}]).wait(60))


def free_places() -> float:
    return float(ray.available_resources().get("CPU", 0))


def test_a_group_is_removed_when_its_creator_has_died(two_places: None) -> None:
    assert placement_group([{"CPU": 1}]).wait(60), "a group of this process"
    creator = Creator.remote()  # type: ignore[attr-defined]
    assert ray.get(creator.create.remote())
    assert remove_orphaned_groups() == 0, "both creators live"
    wait_until(lambda: free_places() == 0)
    ray.kill(creator)
    wait_until(lambda: remove_orphaned_groups() == 1)
    wait_until(lambda: free_places() == 1)  # that of this process stays
    assert remove_orphaned_groups() == 0

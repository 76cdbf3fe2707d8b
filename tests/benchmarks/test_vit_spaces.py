"""The spaces that compare a vision transformer with a ResNet: what they search, at equal FLOPs."""

from pathlib import Path

import pytest

from cfamc_ray.cost.work import training_flops
from cfamc_ray.space.reading import read_study
from cfamc_ray.space.search_space import SearchSpace

SPACES = Path(__file__).parents[2] / "benchmarks" / "vit"
STUDIES = {name: read_study(SPACES / f"{name}.yaml") for name in ("resnet18", "lars", "adamw")}


def test_they_differ_in_encoder_images_and_optimizer_alone() -> None:
    same = {"objectives", "search", "budget", "confirm", "constraints"}
    trees = [study.model_dump(mode="json") for study in STUDIES.values()]
    assert all(tree[key] == trees[0][key] for tree in trees for key in same)
    for tree in trees:
        tree["trial"]["data"]["pretrain_images"] = tree["trial"]["encoder"]["architecture"] = None
        tree["trial"]["optimizer"] = None
    assert trees[0]["trial"] == trees[1]["trial"] == trees[2]["trial"]


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_the_first_points_cost_the_same_flops(name: str) -> None:
    """As published_systems has them: 69,600 crop passes of the transformer, 51,600 of the ResNet."""
    first, other = (SearchSpace(STUDIES[each]).first_points[0] for each in ("resnet18", name))
    resnet, vit = STUDIES["resnet18"].trial_at(first), STUDIES[name].trial_at(other)
    assert (resnet.crop_passes, vit.crop_passes) == (51_600, 69_600)
    assert training_flops(vit) == pytest.approx(training_flops(resnet), rel=0.02)

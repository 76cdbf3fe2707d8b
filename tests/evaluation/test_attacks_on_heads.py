"""The attack of a search on several heads of one encoder with many local maxima."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cfamc_ray.evaluation.margins import attack_margins

N, SHAPE, F, K = 40, (3, 4, 4), 12, 5
SETTINGS: dict[str, Any] = {"epsilon": 0.1, "steps": 4, "at_once": 100}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, F)).double().requires_grad_(False)
"""Features with many kinks, so that an attack's loss has many local maxima."""
for number, parameter in enumerate(NETWORK.parameters()):
    parameter.copy_(2 * random(*parameter.shape, seed=number) - 1)
IMAGES = random(N, *SHAPE, seed=9)


def head(seed: int, *, like: nn.Linear | None = None) -> nn.Linear:
    """One of its own, or one that differs a little from another."""
    layer = nn.Linear(F, K, dtype=torch.float64).requires_grad_(False)
    layer.weight.copy_(2 * random(K, F, seed=seed) - 1)
    layer.bias.copy_(random(K, seed=seed + 50) - 0.5)
    if like is not None:
        layer.weight.mul_(0.2).add_(like.weight)
        layer.bias.mul_(0.2).add_(like.bias)
    return layer


HEADS = [first := head(100), head(101, like=first), head(102, like=first)]
LABELS = HEADS[0](NETWORK(IMAGES)).argmax(-1)
LABELS[::7] = (LABELS[::7] + 1) % K  # which most heads misclassify
RIGHT = torch.stack([one(NETWORK(IMAGES)).argmax(-1) == LABELS for one in HEADS], 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attacked(features_of: Any = NETWORK, heads: Any = HEADS, right_NL: Tensor = RIGHT, **changes: Any) -> Tensor:
    def logits_of(x: Tensor) -> Tensor:
        features_NF = features_of(x)
        return torch.stack([one(features_NF) for one in heads], 1)

    settings = {"generator": seeded(), **SETTINGS, **changes}
    return attack_margins(logits_of, IMAGES, LABELS, right_NL, **settings).right_NL


@pytest.mark.parametrize("shrink", [True, False])
def test_a_head_counts_as_broken_exactly_where_it_misclassifies_an_image_that_the_attack_has_tried(
    shrink: bool,
) -> None:
    tried: list[Tensor] = []

    def features_of(x: Tensor) -> Tensor:
        tried.append(x.detach().clone())
        return NETWORK(x)  # type: ignore[no-any-return]

    left_NL = attacked(features_of, shrink=shrink)
    assert 0 < left_NL.sum() < RIGHT.sum()
    assert (left_NL != left_NL[:, :1]).any(), "heads differ in what is broken"
    wrong_NL = torch.zeros_like(RIGHT)
    for x in torch.cat(tried):
        distance_N = (IMAGES - x).abs().flatten(1).amax(1)
        origin = int(distance_N.argmin())
        assert distance_N[origin] <= SETTINGS["epsilon"] + 1e-12
        assert 0 <= x.min() <= x.max() <= 1
        wrong_NL[origin] |= torch.stack([one(NETWORK(x[None])).argmax(-1)[0] != LABELS[origin] for one in HEADS])
    assert torch.equal(left_NL, RIGHT & ~wrong_NL)


def test_an_image_that_no_head_gets_right_is_not_attacked() -> None:
    tried: list[Tensor] = []

    def features_of(x: Tensor) -> Tensor:
        tried.append(x.detach().clone())
        return NETWORK(x)  # type: ignore[no-any-return]

    hopeless = ~RIGHT.any(1)
    assert 0 < hopeless.sum() < N
    left_NL = attacked(features_of)
    assert not left_NL[hopeless].any()
    for x in torch.cat(tried):
        assert not hopeless[(IMAGES - x).abs().flatten(1).amax(1).argmin()]
    tried.clear()
    assert not attacked(features_of, right_NL=torch.zeros_like(RIGHT)).any()
    assert tried == []


@given(
    seed=st.integers(0, 2**31),
    at_once=st.sampled_from([1, 7, N + 1]),
    shrink=st.booleans(),
)
def test_the_result_does_not_depend_on_how_many_images_are_attacked_at_once_nor_on_when_broken_ones_leave(
    seed: int, at_once: int, shrink: bool
) -> None:
    expected = attacked(generator=seeded(seed), shrink=True)
    assert torch.equal(attacked(generator=seeded(seed), at_once=at_once, shrink=shrink), expected)


def test_no_more_images_than_allowed_are_seen_at_once() -> None:
    seen: list[int] = []

    def features_of(x: Tensor) -> Tensor:
        seen.append(len(x))
        return NETWORK(x)  # type: ignore[no-any-return]

    attacked(features_of, at_once=7)
    assert max(seen) == 7


def test_the_scale_of_a_head_changes_nothing() -> None:
    scaled = [HEADS[0], nn.Linear(F, K, dtype=torch.float64).requires_grad_(False), HEADS[2]]
    scaled[1].weight.copy_(1e4 * HEADS[1].weight)
    scaled[1].bias.copy_(1e4 * HEADS[1].bias)
    assert torch.equal(attacked(heads=scaled), attacked())


def test_inputs_and_heads_are_left_alone() -> None:
    images, right_NL = IMAGES.clone(), RIGHT.clone()
    with torch.no_grad():
        left_NL = attacked()
    assert torch.equal(left_NL, attacked())
    assert torch.equal(IMAGES, images)
    assert torch.equal(RIGHT, right_NL)
    assert all(one.weight.grad is None for one in HEADS)

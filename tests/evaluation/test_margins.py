"""The attack of a search, on classifiers whose worst case is known."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cfamc_ray.config.attacks import MarginsConfig
from cfamc_ray.evaluation.margins import Margins, attack_margins

K, SIDE = 4, 3
F = 3 * SIDE**2


def images(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pixels far from 0 and 1, so a small ball is never cut, and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.4 * torch.rand(number, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return x, torch.randint(K, (number,), generator=generator)


def linear(seed: int, *, classes: int = K) -> nn.Linear:
    head = nn.Linear(F, classes, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
        head.bias.zero_()
    return head.requires_grad_(False)


def right_of(heads: list[nn.Linear], x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([head(x.flatten(1)).argmax(-1) == y for head in heads], 1)


def attacked(
    heads: list[nn.Linear], x: Tensor, y: Tensor, right_NL: Tensor, *, epsilon: float, at_once: int = 100, **given: Any
) -> tuple[Tensor, Tensor]:
    return attack_margins(
        lambda x: torch.stack([head(x.flatten(1)) for head in heads], 1),
        x,
        y,
        right_NL,
        epsilon=epsilon,
        steps=5,
        generator=torch.Generator().manual_seed(1),
        at_once=at_once,
        **given,
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), epsilon=st.floats(0.001, 0.1))
def test_with_two_classes_of_a_linear_classifier_exactly_the_breakable_images_break(seed: int, epsilon: float) -> None:
    """The worst margin in the ball is the margin plus ε times the l1 norm of the difference of the weights."""
    head = linear(seed, classes=2)
    x, y = images(30, seed)
    y = y % 2
    right_N1 = right_of([head], x, y)
    logits_N2 = head(x.flatten(1))
    margin_N = logits_N2.gather(1, 1 - y[:, None]) - logits_N2.gather(1, y[:, None])
    worst_N = margin_N.squeeze(1) + epsilon * (head.weight[0] - head.weight[1]).abs().sum()
    _, left_N1 = attacked([head], x, y, right_N1, epsilon=epsilon)
    sure_N = worst_N.abs() > 1e-9
    assert torch.equal(left_N1[sure_N, 0], (right_N1[:, 0] & (worst_N < 0))[sure_N])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), heads=st.integers(1, 5))
def test_what_breaks_an_image_is_in_the_ball_and_misclassified_by_its_last_head(seed: int, heads: int) -> None:
    linears = [linear(seed + n) for n in range(heads)]
    x, y = images(20, seed)
    right_NL = right_of(linears, x, y)
    hit, left_NL = attacked(linears, x, y, right_NL, epsilon=0.03)
    assert (hit - x).abs().max() <= 0.03 + 1e-12
    assert hit.min() >= 0
    assert hit.max() <= 1
    assert not (left_NL & ~right_NL).any(), "a wrong image was called right"
    assert not (left_NL & ~right_of(linears, hit, y)).any(), "an image that was found to break a head was lost"
    broken_N = right_NL.any(1) & ~left_NL.any(1)
    if heads == 1:
        assert not right_of(linears, hit, y)[broken_N].any()
    untouched_N = ~right_NL.any(1)
    assert torch.equal(hit[untouched_N], x[untouched_N])


@pytest.mark.parametrize(("at_once", "shrink"), [(100, False), (1, True), (7, False), (3, True)])
def test_batches_and_removing_broken_images_change_nothing(at_once: int, shrink: bool) -> None:
    heads = [linear(n) for n in range(4)]
    x, y = images(40)
    right_NL = right_of(heads, x, y)
    whole, parts = (
        attacked(heads, x, y, right_NL, epsilon=0.02, **given)
        for given in ({"shrink": True}, {"at_once": at_once, "shrink": shrink})
    )
    assert torch.equal(whole[1], parts[1])
    assert torch.allclose(whole[0], parts[0])
    assert 0 < int(parts[1].sum()) < int(right_NL.sum())


def test_one_head_alone_is_attacked_as_a_classifier_is() -> None:
    head = linear(0)
    x, y = images(30)
    attack = Margins(MarginsConfig(steps=3))
    classifier = nn.Sequential(nn.Flatten(), head)
    hit = attack(classifier, x, y, epsilon=0.02, generator=torch.Generator().manual_seed(5), at_once=10)
    left_N1 = attack.still_right(
        nn.Flatten(),
        [head],
        x,
        y,
        torch.ones(30, 1, dtype=torch.bool),
        epsilon=0.02,
        generator=torch.Generator().manual_seed(5),
        at_once=10,
    )
    assert torch.equal(classifier(hit).argmax(-1) == y, left_N1[:, 0])


def test_passes_are_never_more_than_the_config_says() -> None:
    config = MarginsConfig(steps=4)
    x, y = images(10)
    forward = backward = 0

    class Robust(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal forward, backward
            forward += len(x)
            backward += len(x) * torch.is_grad_enabled()
            true = nn.functional.one_hot(y[: len(x)], K).double()
            return 1e3 * true + x.flatten(1)[:, :K]

    Margins(config)(Robust(), x, y, epsilon=0.1, generator=torch.Generator(), at_once=10)
    passes = config.passes()
    assert (forward, backward) == (10 * passes.forward, 10 * passes.backward)


def test_logits_that_are_not_finite_do_not_count_as_right() -> None:
    x, y = images(5)
    nan = torch.full((5, 1, K), torch.nan, dtype=torch.float64)
    found = attack_margins(
        lambda x: nan[: len(x)] + 0 * x.sum(),
        x,
        torch.zeros_like(y),
        torch.ones(5, 1, dtype=torch.bool),
        epsilon=0.1,
        steps=2,
        generator=torch.Generator(),
        at_once=5,
    )
    assert not found.right_NL.any()

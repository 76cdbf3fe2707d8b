"""Attacks in the l2 norm, on linear classifiers: the smallest radius that changes a label is margin / ||w||."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import AutoAttack
from test_protocols import CLASSES, CROPS, ENCODER, TEST, TRAIN
from torch import Tensor, nn

from cfamc_ray.config.attacks import AttackConfig, AutoAttackConfig, MarginsConfig, PgdConfig
from cfamc_ray.config.reading import resolve_protocol
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.evaluation.attacks import random_start
from cfamc_ray.evaluation.autoattack import autoattack
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.method.encoder import SelfSupervisedEncoder

N, SHAPE, RADIUS = 8, (3, 6, 6), 0.2
"""Number of images, their shape, and the distance of each from the plane between the classes."""
ATTACKS = [PgdConfig(steps=20), PgdConfig(steps=20, loss="cross_entropy", every_step=False), MarginsConfig()]


def lengths(delta: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(delta.flatten(-3), dim=-1)
    return found


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(seed: int, *, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier of two classes, and images far from 0 and 1 at `RADIUS` from the plane, with their labels."""
    direction = draw(math.prod(SHAPE), seed=seed)
    direction /= direction.norm()
    labels = torch.arange(N) % 2
    along = 0.02 * draw(N, math.prod(SHAPE), seed=seed + 1)
    along -= (along @ direction)[:, None] * direction
    pixels = 0.5 + along + (2.0 * labels - 1)[:, None] * RADIUS * direction
    linear = nn.Linear(len(direction), 2)
    with torch.no_grad():
        linear.weight.copy_(3 * torch.stack([-direction, direction]))
        linear.bias.copy_(torch.tensor([1.0, -1.0]) * 1.5 * direction.sum())
    network = nn.Sequential(nn.Flatten(), linear).to(dtype).requires_grad_(False)
    return network, pixels.view(N, *SHAPE).to(dtype), labels


def attacked(config: AttackConfig, network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    adversarial: Tensor = config.build()(
        network, images, labels, **config.ball(epsilon, "l2"), generator=generator, at_once=100
    )
    return adversarial


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("config", ATTACKS, ids=lambda config: f"{config.label}, {config.id}")
def test_all_images_break_just_above_their_distance_from_the_plane_and_none_just_below(
    config: AttackConfig, seed: int
) -> None:
    network, images, labels = case(seed)
    above = attacked(config, network, images, labels, 1.005 * RADIUS)
    below = attacked(config, network, images, labels, 0.995 * RADIUS)
    assert (network(images).argmax(-1) == labels).all()
    assert (network(above).argmax(-1) != labels).all()
    assert (network(below).argmax(-1) == labels).all()


@pytest.mark.parametrize(("factor", "right"), [(1.01, 0), (0.99, N)])
def test_autoattack_breaks_just_above_the_distance_and_not_just_below(factor: float, right: int) -> None:
    network, images, labels = case(3, dtype=torch.float32)
    adversarial = attacked(AutoAttackConfig(), network, images, labels, factor * RADIUS)
    assert int((network(adversarial).argmax(-1) == labels).sum()) == right
    assert lengths(adversarial - images).max() <= factor * RADIUS + 1e-5


@pytest.mark.parametrize(("norm", "theirs"), [("linf", "Linf"), ("l2", "L2")])
def test_all_parts_of_autoattack_have_the_norm_and_the_radius(
    monkeypatch: pytest.MonkeyPatch, norm: Any, theirs: str
) -> None:
    seen: list[AutoAttack] = []

    def evaluate(attack: AutoAttack, images: Tensor, *_: Tensor, **__: int) -> tuple[Tensor, None]:
        seen.append(attack)
        return images, None

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", evaluate)
    network, images, labels = case(0, dtype=torch.float32)
    autoattack(network, images, labels, epsilon=0.7, norm=norm, seed=0)
    (attack,) = seen
    for part in (attack, attack.apgd, attack.apgd_targeted, attack.fab, attack.square):
        assert part.norm == theirs
    assert (attack.epsilon, attack.apgd.eps, attack.apgd_targeted.eps, attack.fab.eps, attack.square.eps) == (0.7,) * 5


@settings(deadline=None, max_examples=25)
@given(epsilon=st.floats(0, 5, width=32), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("config", [*ATTACKS, PgdConfig(start="zero", restarts=2)], ids=lambda config: config.id)
def test_adversarial_images_stay_in_the_ball_and_in_the_pixel_box(
    config: AttackConfig, epsilon: float, seed: int
) -> None:
    network, _, labels = case(seed)
    images = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).round(decimals=1)
    adversarial = attacked(config, network, images, labels, epsilon)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert lengths(adversarial - images).max() <= epsilon * (1 + 1e-9) + 1e-14


def test_each_crop_of_an_image_has_a_ball_of_its_own() -> None:
    network, images, labels = case(0)
    crops_NVCHW = torch.stack([images, images], 1)

    def logits_of(x_NVCHW: Tensor) -> Tensor:
        return torch.as_tensor(network(x_NVCHW[:, 0]) + network(x_NVCHW[:, 1]))

    adversarial = attacked(PgdConfig(steps=20, every_step=False), logits_of, crops_NVCHW, labels, 0.05)  # type: ignore[arg-type]
    torch.testing.assert_close(lengths(adversarial - crops_NVCHW), torch.full((N, 2), 0.05, dtype=torch.float64))


def test_starts_are_uniform_in_the_ball() -> None:
    """A share r^d of the volume is within r of the centre, and no direction is preferred."""
    images = torch.full((20_000, 1, 1, 2), 0.5)
    delta = random_start(images, epsilon=0.3, norm="l2", generator=torch.Generator().manual_seed(0)).flatten(1)
    for share in (0.25, 0.5, 0.75):
        within = (delta.norm(dim=1) <= 0.3 * math.sqrt(share)).double().mean().item()
        assert within == pytest.approx(share, abs=0.02)
    assert delta.norm(dim=1).max() <= 0.3 * (1 + 1e-6)
    assert delta.mean(0).abs().max() < 0.005
    quadrants = (delta > 0).double().mean(0)
    assert quadrants.tolist() == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("head", ["standard", "adversarial"])
def test_every_attack_of_a_protocol_is_in_its_norm(monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    """Those of the measurements, of the choice of the L2 strength, and of the head's adversarial phase."""
    seen: set[tuple[str, Any, float]] = set()

    def ball(self: AttackConfig, epsilon: float, norm: Any) -> dict[str, Any]:
        seen.add((self.component_name(), norm, epsilon))
        return {"epsilon": epsilon, "norm": norm}

    monkeypatch.setattr(AttackConfig, "ball", ball)
    judged = TrialConfig.model_validate({"evaluation": {"norm": "l2", "epsilon": 0.25}})
    few = ["head.l2=[0.01, 0.1]", "head.epochs=1", "attack.steps=1", "attack.restarts=1", "autoattack_images=0"]
    protocol = resolve_protocol("standard", head=head, overrides=few, trial=judged)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = SelfSupervisedEncoder(ENCODER)
    found = list(run_protocol(encoder, TRAIN, TEST, classes=CLASSES, protocol=protocol, crops=CROPS))
    adversarial = {("pgd", "l2", 0.5)} if head == "adversarial" else set()
    assert seen == {("margins", "l2", 0.25), *(("pgd", "l2", radius) for radius in (0.25, 0.5, 1.0)), *adversarial}
    assert [each.norm for each in found] == [None, *["l2"] * 6]
    assert found[1].record()["norm"] == "l2"

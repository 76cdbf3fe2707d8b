import logging
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from cfamc_ray.evaluation.attacks import Logits
from cfamc_ray.evaluation.autoattack import AttackInvalid, autoattack

N, SHAPE, EPSILON = 12, (3, 4, 4), 0.04


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear(classes: int) -> nn.Module:
    """A classifier of which the attacks break some images in an instant, but not all."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
    for i, parameter in enumerate(network.parameters()):
        parameter.data = random(*parameter.shape, seed=i) - 0.5
    return network.requires_grad_(False)


NETWORK = linear(5)
IMAGES = random(N, *SHAPE, seed=9)
LABELS = NETWORK(IMAGES).argmax(-1)


def attack(logits_of: Logits = NETWORK, images: Tensor = IMAGES, labels: Tensor = LABELS, **changes: Any) -> Tensor:
    return autoattack(logits_of, images, labels, **{"epsilon": EPSILON, "seed": 0, **changes})


def right(images: Tensor, labels: Tensor, network: nn.Module = NETWORK) -> Tensor:
    return torch.as_tensor(network(images).argmax(-1) == labels)


def breakable(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Whether any image in the ball and in the box is misclassified: of a linear classifier known in closed form."""
    weight_KF, bias_K = network.parameters()
    towards_NKF = weight_KF[None] - weight_KF[labels][:, None]
    x_N1F = images.flatten(1)[:, None]
    best_NKF = torch.where(towards_NKF > 0, (x_N1F + epsilon).clamp(max=1), (x_N1F - epsilon).clamp(min=0))
    margins_NK = (towards_NKF * best_NKF).sum(-1) + bias_K - bias_K[labels][:, None]
    return margins_NK.scatter(1, labels[:, None], -1.0).amax(1) > 0


@pytest.mark.parametrize("classes", [2, 3, 4, 12])
def test_it_breaks_exactly_what_can_be_broken_for_any_number_of_classes(classes: int) -> None:
    network = linear(classes)
    labels = network(IMAGES).argmax(-1)
    adversarial = attack(network, labels=labels)
    possible = breakable(network, IMAGES, labels, EPSILON)
    assert 0 < possible.sum() < N
    assert torch.equal(right(adversarial, labels, network), ~possible)


@pytest.mark.parametrize(
    ("classes", "attacks", "targets"),
    [
        (2, ["apgd-ce", "fab-t", "square"], 1),
        (3, ["apgd-ce", "apgd-dlr", "fab-t", "square"], 2),
        (4, ["apgd-ce", "apgd-t", "fab-t", "square"], 3),
        (9, ["apgd-ce", "apgd-t", "fab-t", "square"], 8),
        (10, ["apgd-ce", "apgd-t", "fab-t", "square"], 9),
        (100, ["apgd-ce", "apgd-t", "fab-t", "square"], 9),
    ],
)
def test_the_attacks_and_targets_suit_the_number_of_classes(
    monkeypatch: pytest.MonkeyPatch, classes: int, attacks: list[str], targets: int
) -> None:
    def evaluate(suited: AutoAttack, images: Tensor, labels: Tensor, **_: int) -> tuple[Tensor, Tensor]:
        assert suited.attacks_to_run == attacks
        assert suited.apgd_targeted.n_target_classes == suited.fab.n_target_classes == targets
        return images, labels

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", evaluate)
    assert torch.equal(attack(linear(classes)), IMAGES)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.round()], ids=["noise", "black and white"])
def test_it_stays_in_the_ball_and_in_the_pixel_box_and_returns_what_it_did_not_break(images: Tensor) -> None:
    labels = NETWORK(images).argmax(-1)
    before = images.clone()
    adversarial = attack(images=images, labels=labels, epsilon=0.06)
    broken = ~right(adversarial, labels)
    assert 0 < broken.sum() < N
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (adversarial - images).abs().max() <= 0.06 + 1e-6
    assert torch.equal((adversarial != images).flatten(1).any(1), broken)
    assert torch.equal(images, before)


def test_images_that_are_wrong_already_are_left_and_count_as_wrong() -> None:
    wrong = torch.arange(N) < 4
    adversarial = attack(labels=torch.where(wrong, (LABELS + 1) % 5, LABELS))
    assert torch.equal(adversarial[wrong], IMAGES[wrong])
    assert torch.equal(right(adversarial, LABELS)[~wrong], ~breakable(NETWORK, IMAGES, LABELS, EPSILON)[~wrong])


def test_an_empty_batch_gives_an_empty_batch_without_a_call_of_the_classifier() -> None:
    def unreachable(_: Tensor) -> Tensor:
        raise AssertionError

    assert attack(unreachable, IMAGES[:0], LABELS[:0]).shape == (0, *SHAPE)


def test_one_image_by_itself_and_a_batch_size_of_one() -> None:
    unbreakable = ~breakable(NETWORK, IMAGES, LABELS, EPSILON)
    for index in (int(unbreakable.int().argmax()), int(unbreakable.int().argmin())):
        adversarial = attack(images=IMAGES[index : index + 1], labels=LABELS[index : index + 1])
        assert right(adversarial, LABELS[index : index + 1]).item() == unbreakable[index].item()
    adversarial = attack(images=IMAGES[:3], labels=LABELS[:3], batch_images=1)
    assert torch.equal(right(adversarial, LABELS[:3]), unbreakable[:3])


def test_the_same_seed_gives_the_same_images_whatever_the_global_random_state_which_stays() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = attack(bent)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(attack(bent), first)
    assert not torch.equal(attack(bent, seed=1), first)


def test_memory_layout_and_gradient_mode_make_no_difference() -> None:
    with torch.no_grad():
        expected = attack()
    with torch.enable_grad():
        adversarial = attack(images=IMAGES.to(memory_format=torch.channels_last))
    assert torch.equal(adversarial, expected)
    assert not adversarial.requires_grad


def test_a_debugger_keeps_its_trace() -> None:
    def trace(_frame: FrameType, _event: str, _argument: Any) -> None:
        return None

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        attack(images=IMAGES[:1], labels=LABELS[:1], version="rand")
        assert sys.gettrace() is trace
    finally:
        sys.settrace(previous)


def test_other_than_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="images_NCHW"):
        attack(images=IMAGES.double())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """AutoAttack's own, silenced by someone."""
    logger = logging.getLogger("auto-attack")
    logger.setLevel(logging.CRITICAL)
    yield logger
    logger.setLevel(logging.NOTSET)


class Backwards(torch.autograd.Function):
    """The identity, with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def bent(x: Tensor) -> Tensor:
    """Not linear in the pixels, so that where an attack ends depends on where it starts."""
    return NETWORK(x + (20 * x).sin())  # type: ignore[no-any-return]


def randomised(x: Tensor) -> Tensor:
    return NETWORK(x + 0.01 * torch.randn_like(x))  # type: ignore[no-any-return]


def probabilities(x: Tensor) -> Tensor:
    return NETWORK(x).softmax(-1)  # type: ignore[no-any-return]


def quantised(x: Tensor) -> Tensor:
    return NETWORK((x * 255).round() / 255)  # type: ignore[no-any-return]


def masked(x: Tensor) -> Tensor:
    return NETWORK(Backwards.apply(x))  # type: ignore[no-any-return]


def dynamic(x: Tensor) -> Tensor:
    with torch.enable_grad():
        moved = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(NETWORK(moved).logsumexp(-1).sum(), moved)
    return NETWORK(x + 0.001 * gradient)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("logits_of", "message"),
    [
        (randomised, "randomized defense.*change from call to call"),
        (probabilities, "probability distribution.*pass it logits"),
        (quantised, "zero gradient.*count it as robust"),
        (masked, "Square Attack has decreased.*mislead"),
        (dynamic, "dynamic defense.*made for it"),
    ],
)
def test_an_evaluation_that_autoattack_doubts_fails(logits_of: Logits, message: str, logger: logging.Logger) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(AttackInvalid, match=message):
        attack(logits_of)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not logger.handlers
    assert logger.propagate
    assert logger.level == logging.CRITICAL


def test_a_dynamic_classifier_does_not_taint_the_evaluation_of_the_next() -> None:
    with pytest.raises(AttackInvalid, match="dynamic"):
        attack(dynamic)
    attack(images=IMAGES[:2], labels=LABELS[:2])


def test_a_randomised_classifier_can_be_attacked_by_the_version_for_it() -> None:
    adversarial = attack(randomised, version="rand")
    assert right(adversarial, LABELS).sum() < N


@pytest.mark.parametrize("classes", [3, 5])
def test_nothing_is_printed_or_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, classes: int
) -> None:
    caplog.set_level(logging.DEBUG)
    network = linear(classes)
    attack(network, IMAGES[:2], network(IMAGES[:2]).argmax(-1))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records

import logging
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cfamc_ray.config.attacks import AutoAttackConfig
from cfamc_ray.evaluation.attacks import AttackInvalid, Logits
from cfamc_ray.evaluation.autoattack import _Raise, _warnings_raised, autoattack
from cfamc_ray.method.encoder import InChunks

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


@pytest.mark.parametrize(("device", "kept"), [("cpu", []), ("cuda:1", [torch.device("cuda:1")])])
def test_of_all_gpus_that_of_the_images_alone_is_asked_for_its_random_state(
    monkeypatch: pytest.MonkeyPatch, device: str, kept: list[torch.device]
) -> None:
    class Asked(Exception):  # noqa: N818 (no error)
        pass

    def fork_rng(devices: Any) -> None:
        raise Asked(*devices)

    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("torch.random.fork_rng", fork_rng)
    with FakeTensorMode(), pytest.raises(Asked) as asked:
        attack(images=torch.empty(N, *SHAPE, device=device), labels=torch.empty(N, device=device))
    assert list(asked.value.args) == kept


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


@pytest.mark.long
@pytest.mark.parametrize("at_once", [1, 5])
def test_a_network_that_sees_few_images_at_once_is_attacked_alike(at_once: int) -> None:
    seen = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return bent(x)

    labels = bent(IMAGES).argmax(-1)
    expected = attack(bent, labels=labels, epsilon=0.004)
    found = attack(InChunks(Watched(), at_once, activation_checkpointing=True), labels=labels, epsilon=0.004)
    assert max(seen) == at_once
    assert 0 < (bent(expected).argmax(-1) == labels).sum() < N
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


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
        (dynamic, "dynamic defense.*dedicated attack"),
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


def square_check(images: int, lost: int) -> None:
    """AutoAttack's own check, where Square broke some of the images that the other attacks had left."""
    left = 0.75
    with _warnings_raised(images):
        checks.check_square_sr(
            {"clean": 1.0, "apgd-ce": 0.8, "fab-t": left, "square": left - lost / images},
            logger=logging.getLogger("auto-attack"),
        )


@pytest.mark.parametrize("images", [2, 3, 12, 250, 499, 501])
def test_one_image_that_square_alone_breaks_says_nothing_of_the_classifier(images: int) -> None:
    square_check(images, lost=1)


@pytest.mark.parametrize("images", [3, 4, 12, 250, 499, 501, 900])
def test_two_images_that_square_alone_breaks_do(images: int) -> None:
    with pytest.raises(AttackInvalid, match=r"Square Attack has decreased.*mislead"):
        square_check(images, lost=2)


def test_of_many_images_square_may_break_two_in_a_thousand() -> None:
    square_check(5000, lost=9)
    with pytest.raises(AttackInvalid, match="Square"):
        square_check(5000, lost=11)


@pytest.mark.parametrize("images", [1, 1000])
def test_other_warnings_are_raised_whatever_the_number_of_images(images: int) -> None:
    warning = logging.LogRecord(
        "auto-attack", logging.WARNING, "", 0, "Something else of 1.00%.", None, None, "check_x"
    )
    with pytest.raises(AttackInvalid, match=r"Something else of 1\.00%\. That is: see its documentation"):
        _Raise(images).emit(warning)


@pytest.mark.parametrize(("masked_images", "doubted"), [(1, False), (2, True)])
def test_a_classifier_that_misleads_about_one_image_is_not_doubted(masked_images: int, doubted: bool) -> None:
    breakable_N = breakable(NETWORK, IMAGES, LABELS, EPSILON).nonzero().squeeze(1)
    centres = IMAGES[breakable_N[:masked_images]]

    def partly_masked(x: Tensor) -> Tensor:
        near = (x[:, None] - centres).abs().flatten(2).amax(-1).amin(-1) <= 2 * EPSILON
        return torch.where(near[:, None], masked(x), NETWORK(x))

    if doubted:
        with pytest.raises(AttackInvalid, match="Square"):
            attack(partly_masked)
    else:
        adversarial = attack(partly_masked)
        assert torch.equal(right(adversarial, LABELS), ~breakable(NETWORK, IMAGES, LABELS, EPSILON))


def test_an_image_that_resists_takes_no_more_passes_than_are_counted() -> None:
    seen = {"forward": 0, "backward": 0}
    weight_FK = 20 * torch.eye(10)

    def count_backward(_: Tensor) -> None:
        seen["backward"] += 1

    def logits_of(images_NCHW: Tensor) -> Tensor:
        seen["forward"] += len(images_NCHW)
        logits_NK = images_NCHW.flatten(1)[:, :10] @ weight_FK
        if logits_NK.requires_grad:
            logits_NK.register_hook(count_backward)
        return logits_NK

    image_1CHW = torch.full((1, 3, 4, 4), 0.2)
    image_1CHW[0, 0, 0, :3] = torch.tensor([0.9, 0.3, 0.4])
    label_1 = torch.tensor([0])
    assert torch.equal(autoattack(logits_of, image_1CHW, label_1, epsilon=0.05, seed=0), image_1CHW)
    forward, backward = AutoAttackConfig().passes()
    assert seen["backward"] == backward
    assert 0.97 * (forward - backward) < seen["forward"] <= forward - backward, "none is computed again"

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cfamc_ray.evaluation.attacks import pgd

N, SHAPE, K = 40, (3, 4, 4), 5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def classifier(seed: int = 0, *, width: int = 16) -> nn.Module:
    """A network whose loss has many local maxima."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.ReLU(), nn.Linear(width, K))
    for i, parameter in enumerate(network.parameters()):
        parameter.data = 2 * random(*parameter.shape, seed=seed + i) - 1
    return network.requires_grad_(False)


NETWORK = classifier()
IMAGES = random(N, *SHAPE, seed=9)
LABELS = NETWORK(IMAGES).argmax(-1)


def attack(**changes: Any) -> Tensor:
    settings = {"epsilon": 0.1, "steps": 3, "step_size": 0.04, "generator": torch.Generator().manual_seed(0), **changes}
    return pgd(NETWORK, IMAGES, LABELS, **settings)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def right(images: Tensor) -> Tensor:
    return torch.as_tensor(NETWORK(images).argmax(-1) == LABELS)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("start", ["uniform", "zero"])
def test_pgd_reaches_the_optimum_of_a_linear_classifier(start: Any, loss: Any) -> None:
    direction = random(48, seed=1) - 0.5
    labels, sign = torch.arange(N) % 2, 1.0 - 2.0 * (torch.arange(N) % 2)

    def logits_of(x: Tensor) -> Tensor:
        margin = (x - 0.5).flatten(1) @ direction
        return torch.stack([margin, -margin], dim=-1)

    adversarial = pgd(logits_of, IMAGES, labels, epsilon=0.1, steps=25, step_size=0.01, start=start, loss=loss)
    downhill = -sign[:, None] * direction.sign()
    optimum = (IMAGES + 0.1 * downhill.view_as(IMAGES)).clamp(0, 1)
    resists = logits_of(adversarial).argmax(-1) == labels
    torch.testing.assert_close(adversarial, optimum)
    assert torch.equal(resists, logits_of(optimum).argmax(-1) == labels)


@given(
    epsilon=st.floats(0, 1, width=32),
    step_size=st.floats(0, 2),
    steps=st.integers(1, 3),
    restarts=st.integers(1, 3),
    start=st.sampled_from(["uniform", "zero"]),
)
@pytest.mark.parametrize("images", [IMAGES, IMAGES.round()], ids=["noise", "black and white"])
def test_adversarial_images_stay_in_the_ball_and_in_the_pixel_box(
    images: Tensor, epsilon: float, **settings: Any
) -> None:
    adversarial = pgd(NETWORK, images, LABELS, epsilon=epsilon, **settings)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (adversarial - images).abs().max() <= epsilon + 1e-7


def test_a_ball_of_radius_zero_gives_the_images_back() -> None:
    assert torch.equal(attack(epsilon=0.0), IMAGES)


def test_the_attack_breaks_some_images_but_not_all() -> None:
    assert right(IMAGES).all()
    assert 0 < right(attack()).sum() < N


def test_more_restarts_never_leave_more_images_right() -> None:
    counts = [int(right(attack(restarts=restarts)).sum()) for restarts in range(1, 7)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_the_result_does_not_depend_on_how_many_images_the_classifier_sees_at_once(every_step: bool, loss: Any) -> None:
    seen, network, images = [], copy.deepcopy(NETWORK).double(), IMAGES.double()

    def logits_of(x: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.as_tensor(network(x))

    settings: Any = {"epsilon": 0.1, "steps": 3, "step_size": 0.04, "restarts": 4, "loss": loss}
    whole, *parts = (
        pgd(logits_of, images, LABELS, **settings, every_step=every_step, at_once=at_once, generator=seeded())
        for at_once in (None, 1, 7, N - 1, N + 1)
    )
    assert 0 < (network(whole).argmax(-1) == LABELS).sum() < N
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)
    seen.clear()
    pgd(logits_of, images, LABELS, **settings, every_step=every_step, at_once=7, generator=seeded())
    assert max(seen) == 7


def test_starts_do_not_depend_on_which_images_are_broken_already() -> None:
    """A generator is left in one state, unless all images are broken."""
    states = []
    for epsilon in (0.0, 0.1):
        generator = seeded()
        attack(epsilon=epsilon, restarts=3, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_an_image_that_a_start_has_broken_is_left_as_it_is() -> None:
    one, five = attack(restarts=1), attack(restarts=5)
    broken = ~right(one)
    assert torch.equal(five[broken], one[broken])
    assert not torch.equal(five[~broken], one[~broken])


def test_an_image_that_any_step_has_broken_is_left_there() -> None:
    steps = 6
    paths = [attack(steps=k, epsilon=0.05, step_size=0.1, generator=seeded()) for k in range(1, steps + 1)]
    start = attack(steps=1, epsilon=0.05, step_size=0.0, generator=seeded())
    found = attack(steps=steps, epsilon=0.05, step_size=0.1, generator=seeded(), every_step=True)
    expected = paths[-1].clone()
    for reached in reversed([start, *paths[:-1]]):
        broken = ~right(reached)
        expected[broken] = reached[broken]
    assert torch.equal(found, expected)
    assert right(found).sum() < right(paths[-1]).sum(), "some image was broken on the way and right at the end"


def test_every_step_counts_over_all_restarts_and_spares_the_classifier_what_is_broken() -> None:
    seen = []

    def logits_of(x: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.as_tensor(NETWORK(x))

    settings: dict[str, Any] = {"epsilon": 0.3, "steps": 4, "step_size": 0.1, "restarts": 3}
    last = pgd(logits_of, IMAGES, LABELS, generator=seeded(), **settings)
    without, seen[:] = sum(seen), []
    every = pgd(logits_of, IMAGES, LABELS, generator=seeded(), every_step=True, **settings)
    assert sum(seen) < without
    assert right(every).sum() <= right(last).sum()
    assert seen == sorted(seen, reverse=True)


@given(
    seed=st.integers(0, 2**31),
    epsilon=st.sampled_from([0.02, 0.1, 0.3]),
    steps=st.integers(1, 6),
    restarts=st.integers(1, 4),
    at_once=st.sampled_from([None, 1, 7, N]),
    every_step=st.booleans(),
)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_the_result_does_not_depend_on_when_broken_images_leave_the_batch(
    loss: Any, seed: int, **settings: Any
) -> None:
    network, images = classifier(seed % 1000).double(), IMAGES.double()
    labels = network(images).argmax(-1)
    shrunk, whole = (
        pgd(
            network,
            images,
            labels,
            step_size=settings["epsilon"] / 3,
            generator=torch.Generator().manual_seed(seed),
            loss=loss,
            shrink=shrink,
            **settings,
        )
        for shrink in (True, False)
    )
    torch.testing.assert_close(whole, shrunk, rtol=0, atol=1e-12)


class HostReads(TorchDispatchMode):
    """Counts operations whose result's value or size the host of a GPU would wait for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, indices = operation.overloadpacket.__name__, args[1] if len(args) > 1 else None
        masks = isinstance(indices, list | tuple) and any(getattr(i, "dtype", None) == torch.bool for i in indices)
        self.count += name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
        self.count += masks and name in ("index", "index_put", "index_put_", "_index_put_impl_")
        return operation(*args, **(kwargs or {}))


def host_reads(**settings: Any) -> int:
    with HostReads() as mode:
        attack(every_step=True, **settings)
    return int(mode.count)


def test_on_a_gpu_no_step_waits_for_the_host_and_all_steps_of_a_start_have_one_shape() -> None:
    assert host_reads(shrink=False, steps=2) == host_reads(shrink=False, steps=7) > 0
    assert host_reads(shrink=True, steps=2) < host_reads(shrink=True, steps=7)
    seen, on_meta = [], copy.deepcopy(NETWORK).to("meta")

    def logits_of(x: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.as_tensor((on_meta if x.is_meta else NETWORK)(x))

    settings: Any = {"epsilon": 0.1, "steps": 4, "step_size": 0.04, "every_step": True}
    pgd(logits_of, IMAGES, LABELS, **settings, restarts=2, shrink=False, generator=seeded())
    assert seen[:5] == [N] * 5
    assert len(set(seen[5:])) == 1
    assert seen[5] < N, "what the first start has broken is not attacked again"
    seen.clear()
    with pytest.raises(
        NotImplementedError, match="nonzero"
    ):  # no CPU, and no values: the start's end cannot be counted
        pgd(logits_of, IMAGES.to("meta"), LABELS.to("meta"), **settings, start="zero")
    assert seen == [N] * 5


@pytest.mark.parametrize("every_step", [False, True])
def test_no_images_are_no_trouble(every_step: bool) -> None:
    none = pgd(NETWORK, IMAGES[:0], LABELS[:0], epsilon=0.1, steps=2, step_size=0.1, every_step=every_step)
    assert none.shape == (0, *SHAPE)


def test_larger_balls_leave_fewer_images_right() -> None:
    counts = [int(right(attack(epsilon=e, steps=10, step_size=e / 4)).sum()) for e in (0.0, 0.05, 0.1, 0.3)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == N > counts[-1]


def test_an_attack_from_zero_needs_no_random_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(attack(start="zero", generator=generator), attack(start="zero", generator=None))
    assert torch.equal(generator.get_state(), before)


def test_uniform_starts_come_from_the_generator_alone() -> None:
    assert torch.equal(attack(), attack())
    assert not torch.equal(attack(), attack(generator=torch.Generator().manual_seed(1)))


def test_the_attack_works_where_gradients_are_switched_off_and_leaves_its_inputs_alone() -> None:
    images = IMAGES.clone()
    with torch.no_grad():
        adversarial = attack()
    assert torch.equal(adversarial, attack())
    assert not adversarial.requires_grad
    assert torch.equal(IMAGES, images)


def test_the_margin_breaks_a_head_so_extreme_that_cross_entropy_has_no_gradient() -> None:
    def extreme(x: Tensor) -> Tensor:
        return 1e4 * NETWORK(x)  # type: ignore[no-any-return]

    x = IMAGES.clone().requires_grad_()
    F.cross_entropy(extreme(x), LABELS, reduction="sum").backward()
    assert x.grad is not None
    vanished = (x.grad == 0).flatten(1).all(1)
    assert vanished.sum() > N // 2
    settings: Any = {"epsilon": 0.1, "steps": 10, "step_size": 0.03, "start": "zero"}
    cross_entropy = pgd(extreme, IMAGES, LABELS, **settings, loss="cross_entropy")
    margin = pgd(extreme, IMAGES, LABELS, **settings)
    assert right(cross_entropy)[vanished].all()
    assert right(margin)[vanished].float().mean() < 0.5
    assert torch.equal(margin, pgd(NETWORK, IMAGES, LABELS, **settings, loss="margin"))


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained convolutional network in float64, and 400 images that it has not seen."""
    data = load_digits()
    images, labels = torch.as_tensor(data.images[:, None] / 16).float(), torch.as_tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten()
        ).append(nn.Linear(288, 10))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(images[:1000]), labels[:1000]).backward()
        optimizer.step()
    return network.double().eval().requires_grad_(False), images[1000:1400].double(), labels[1000:1400]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:foolbox")
@pytest.mark.parametrize("start", ["uniform", "zero"])
@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_it_is_foolboxs_pgd_to_the_pixel(digits: tuple[nn.Module, Tensor, Tensor], epsilon: float, start: Any) -> None:
    from foolbox.attacks import LinfPGD  # noqa: PLC0415 (its import warns)
    from foolbox.models.pytorch import PyTorchModel  # noqa: PLC0415

    network, images, labels = digits
    # Both draw their starts alike from one seed; float64, as a gradient may round to either sign.
    ours = pgd(
        network,
        images,
        labels,
        epsilon=epsilon,
        steps=10,
        step_size=epsilon / 4,
        start=start,
        generator=torch.Generator().manual_seed(0),
        loss="cross_entropy",
    )
    attack = LinfPGD(abs_stepsize=epsilon / 4, steps=10, random_start=start == "uniform")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs, _, _ = attack(PyTorchModel(network, bounds=(0, 1), device="cpu"), images, labels, epsilons=epsilon)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    clean, robust = [(network(x).argmax(-1) == labels).float().mean() for x in (images, ours)]
    assert clean > 0.9
    assert 0.1 < robust < clean - 0.1

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfamc_ray.config.optimizers import AdamWConfig
from cfamc_ray.method.optimizer import Lars, build_adamw, build_optimizer, build_scheduler

GOLDEN_FILES = sorted((Path(__file__).parents[1] / "golden").glob("lars_*.npz"))


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))


def lars(*parameters: nn.Parameter, lr: float = 0.3, momentum: float = 0.0, weight_decay: float = 0.0) -> Lars:
    optimizer = build_optimizer(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    assert isinstance(optimizer, Lars)
    return optimizer


def step(optimizer: torch.optim.Optimizer, *pairs: tuple[nn.Parameter, Tensor]) -> None:
    for weight, gradient in pairs:
        weight.grad = gradient.clone()
    optimizer.step()


@pytest.fixture
def _fused_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that torch.compile would fuse, run as it is."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


@pytest.mark.usefixtures("_fused_by_nothing")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("file", GOLDEN_FILES, ids=lambda file: file.stem)
def test_lars_steps_are_the_published_ones(file: Path, compiled: bool) -> None:
    data = np.load(file)
    parameters = [nn.Parameter(torch.from_numpy(data[f"init_{k}"])) for k in range(4)]
    optimizer = build_optimizer(
        parameters,
        lr=data["lr"].item(),
        momentum=data["momentum"].item(),
        weight_decay=data["weight_decay"].item(),
        trust_coefficient=data["eta"].item(),
        compiled=compiled,
    )
    for s in range(data["steps"].item()):
        step(optimizer, *((p, torch.from_numpy(data[f"grad_{s}_{k}"])) for k, p in enumerate(parameters)))
        for k, p in enumerate(parameters):
            np.testing.assert_allclose(p.detach(), data[f"after_{s}_{k}"], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("_fused_by_nothing")
@pytest.mark.parametrize("trust_coefficient", [0.005, None])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_compiled_step_is_the_plain_one(trust_coefficient: float | None, momentum: float) -> None:
    ends = []
    for compiled in (False, True):
        weights = parameter(5, 4), parameter(5)
        optimizer = build_optimizer(
            weights, lr=0.3, momentum=momentum, trust_coefficient=trust_coefficient, compiled=compiled
        )
        for seed in range(3):
            step(optimizer, *((weight, parameter(*weight.shape, seed=seed).detach()) for weight in weights))
        ends.append([*(weight.detach() for weight in weights), *optimizer.state_tensors()])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=0)


def test_a_first_step_from_momenta_of_zeros_is_one_from_none() -> None:
    without, zeros = parameter(5, 4), parameter(5, 4)
    for weight in (without, zeros):
        optimizer = lars(weight, momentum=0.9)
        if weight is zeros:
            assert not any(momentum.any() for momentum in optimizer.state_tensors())
        step(optimizer, (weight, parameter(5, 4, seed=1).detach()))
    assert torch.equal(without, zeros)


def test_a_step_reads_its_rate_from_a_tensor() -> None:
    by_number, by_tensor = parameter(5, 4), parameter(5, 4)
    gradient = parameter(5, 4, seed=1).detach()
    step(lars(by_number, lr=0.2), (by_number, gradient))
    optimizer = lars(by_tensor, lr=7.0)
    with optimizer.rate_from(torch.tensor(0.2, dtype=torch.float64)):
        step(optimizer, (by_tensor, gradient))
    torch.testing.assert_close(by_tensor, by_number, rtol=1e-12, atol=0)
    assert optimizer.param_groups[0]["lr"] == 7.0


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6])
def test_the_effective_rate_is_the_trust_ratio_but_never_more_than_lr(scale: float) -> None:
    weight, gradient = parameter(5, 4), parameter(5, 4, seed=1).detach() * scale
    before = weight.detach().clone()
    step(lars(weight, lr=0.3), (weight, gradient))
    rate = (before - weight.detach()).norm() / gradient.norm()
    trust = 0.005 * before.norm() / (gradient.norm() + 1e-8)
    assert rate.item() == pytest.approx(min(0.3, trust.item()), rel=1e-6)


def test_biases_and_norms_get_neither_decay_nor_lars() -> None:
    weight, bias = parameter(5, 4), parameter(5)
    before, gradient = bias.detach().clone(), parameter(5, seed=1).detach()
    step(lars(weight, bias, lr=0.3, weight_decay=0.5), (weight, weight.detach()), (bias, gradient))
    assert torch.equal(bias.detach(), before - 0.3 * gradient)


@pytest.mark.parametrize(("weight_scale", "gradient_scale"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_layer_of_zeros_or_without_a_gradient_takes_the_plain_step(
    weight_scale: float, gradient_scale: float, weight_decay: float
) -> None:
    before, gradient = parameter(5, 4).detach() * weight_scale, parameter(5, 4, seed=1).detach() * gradient_scale
    weight = nn.Parameter(before.clone())
    step(lars(weight, lr=0.3, weight_decay=weight_decay), (weight, gradient))
    torch.testing.assert_close(weight.detach(), before - 0.3 * (gradient + weight_decay * before))


def test_a_layer_that_no_loss_reached_is_left_alone() -> None:
    reached, unreached = parameter(5, 4), parameter(3, 2)
    before = unreached.detach().clone()
    step(lars(reached, unreached), (reached, reached.detach()))
    assert torch.equal(unreached.detach(), before)


def test_clipped_share_counts_the_layers_whose_trust_ratio_exceeds_lr() -> None:
    weights = [parameter(2, 2) for _ in range(4)]
    optimizer = lars(*weights, lr=0.05)
    # With gradients that are multiples of the weights, the trust ratio is 0.005 over the factor.
    step(optimizer, *((w, factor * w.detach()) for w, factor in zip(weights, (0.01, 0.2, 1, 10), strict=True)))
    assert optimizer.clipped_share is not None
    assert optimizer.clipped_share.item() == 0.25


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_trust_coefficient_it_is_torchs_sgd_exactly(momentum: float) -> None:
    ours, theirs = [parameter(5, 4), parameter(5)], [parameter(5, 4), parameter(5)]
    groups = [{"params": theirs[:1], "weight_decay": 1e-2}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=momentum > 0)
    optimizer = build_optimizer(ours, lr=0.1, momentum=momentum, weight_decay=1e-2, trust_coefficient=None)
    for s in range(5):
        gradients = [parameter(5, 4, seed=s).detach(), parameter(5, seed=s).detach()]
        step(optimizer, *zip(ours, gradients, strict=True))
        step(reference, *zip(theirs, gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert isinstance(optimizer, Lars)
    assert optimizer.clipped_share is None


def rate_after(updates: int, *, horizon: int | None, begun: int = 0, warm_up: int = 0) -> float:
    optimizer = lars(parameter(2, 2), lr=0.3)
    scheduler = build_scheduler(optimizer, horizon=horizon, begun=begun, warm_up=warm_up)
    for _ in range(updates):
        optimizer.step()
        scheduler.step()
    return float(optimizer.param_groups[0]["lr"])


def test_the_rate_falls_from_lr_to_zero_over_the_horizon() -> None:
    rates = [rate_after(updates, horizon=12) for updates in range(13)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.3
    assert rates[6] == pytest.approx(0.15)
    assert rates[12] == 0


@pytest.mark.parametrize(("replays", "last_rate"), [(1, 0.0), (2, 0.3), (3, 0.0), (4, 0.3)])
def test_the_published_horizon_ends_at_zero_for_odd_replays_and_at_lr_for_even_ones(
    replays: int, last_rate: float
) -> None:
    minibatches = 7
    assert rate_after(minibatches * replays, horizon=minibatches) == pytest.approx(last_rate, abs=1e-15)


def test_without_a_horizon_the_rate_stays() -> None:
    assert rate_after(9, horizon=None) == 0.3


def test_optimizer_and_schedule_go_on_from_their_state_as_if_never_stopped() -> None:
    weights = [parameter(5, 4), parameter(5)]
    optimizer = lars(*weights, momentum=0.9, weight_decay=1e-3)
    scheduler = build_scheduler(optimizer, horizon=6)

    def train(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], seeds: range) -> None:
        for s in seeds:
            step(optimizer, *((w, parameter(*w.shape, seed=s).detach()) for w in weights))
            scheduler.step()

    train(optimizer, weights, range(3))
    resumed_weights = [nn.Parameter(w.detach().clone()) for w in weights]
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    train(optimizer, weights, range(3, 6))

    resumed = lars(*resumed_weights, lr=99)
    scheduler = build_scheduler(resumed, horizon=6)
    resumed.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    train(resumed, resumed_weights, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed_weights, strict=True))


@pytest.mark.parametrize("begun", [0, 2, 5])
def test_the_rate_grows_in_the_warm_up_and_the_cosine_takes_the_rest(begun: int) -> None:
    rates = [rate_after(updates - begun, horizon=12, begun=begun, warm_up=4) for updates in range(begun, 13)]
    grown = [0.075, 0.15, 0.225, 0.3]
    cosine = [0.15 * (1 + math.cos(math.pi * update / 8)) for update in range(9)]
    assert rates == pytest.approx([*grown, *cosine][begun:], abs=1e-12)
    assert [rate_after(updates, horizon=None, warm_up=2) for updates in range(4)] == [0.15, 0.3, 0.3, 0.3]


def test_adamw_decays_weights_alone_and_apart_from_the_gradient() -> None:
    """Loshchilov and Hutter's algorithm 2, with the decay of a step multiplied by the rate, as torch has it."""
    config = AdamWConfig(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    weights = parameter(5, 4), parameter(5)
    expected = [weight.detach().clone() for weight in weights]
    means, squares = ([torch.zeros_like(weight) for weight in expected] for _ in range(2))
    optimizer = build_adamw(config, weights)
    for t in range(1, 4):
        gradients = [parameter(*weight.shape, seed=t).detach() for weight in weights]
        step(optimizer, *zip(weights, gradients, strict=True))
        for place, gradient in enumerate(gradients):
            means[place] = 0.8 * means[place] + 0.2 * gradient
            squares[place] = 0.95 * squares[place] + 0.05 * gradient**2
            decay = 0.1 if expected[place].ndim > 1 else 0.0
            direction = (means[place] / (1 - 0.8**t)) / ((squares[place] / (1 - 0.95**t)).sqrt() + 1e-8)
            expected[place] = expected[place] * (1 - 0.01 * decay) - 0.01 * direction
        torch.testing.assert_close([weight.detach() for weight in weights], expected, rtol=1e-9, atol=1e-12)


def test_a_first_step_from_a_state_of_zeros_is_one_from_none() -> None:
    without, zeros = parameter(5, 4), parameter(5, 4)
    for weight in (without, zeros):
        optimizer = build_adamw(AdamWConfig(), [weight])
        if weight is zeros:
            assert not any(tensor.any() for tensor in optimizer.state_tensors())
        step(optimizer, (weight, parameter(5, 4, seed=1).detach()))
        assert [float(optimizer.state[weight]["step"]), len(optimizer.state_tensors())] == [1, 3]
    assert torch.equal(without, zeros)

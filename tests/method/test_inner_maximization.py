from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cfamc_ray.method.inner_maximization import free_replays, pgd_update
from cfamc_ray.method.losses import emp_ssl_loss
from cfamc_ray.method.optimizer import build_optimizer, build_scheduler

GOLDEN_FILES = sorted((Path(__file__).parents[1] / "golden").glob("free_loop_*.npz"))
EPSILON, STEP_SIZE = 0.03, 0.01
V, B, C, H, W, D = 2, 3, 3, 2, 2, 4


class Encoder(nn.Module):
    """A linear encoder that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C * H * W, D, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(random(D, C * H * W, seed=7) - 0.5)
        self.seen: list[Tensor] = []

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.seen.append(x_NCHW.detach().clone())
        z_ND: Tensor = self.linear(x_NCHW.flatten(1))
        return z_ND


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CROPS_VBCHW = random(V, B, C, H, W)
DELTA_VBCHW = (2 * random(V, B, C, H, W, seed=1) - 1) * EPSILON
SLOPE_VBD = random(V, B, D, seed=2) - 0.5


def linear_loss(z_VBD: Tensor) -> Tensor:
    """Its gradients do not depend on the weights' or the pixels' state, so a trajectory is known beforehand."""
    return (z_VBD * SLOPE_VBD).sum()


def sgd(encoder: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(encoder.parameters(), lr=lr)


@pytest.mark.parametrize("file", GOLDEN_FILES, ids=lambda file: file.stem)
def test_the_published_loop_is_replayed_with_all_its_losses_rates_deltas_and_weights(file: Path) -> None:
    data = np.load(file)
    views, images, side, replays = (data[name].item() for name in ("crops", "images", "side", "replays"))
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * side**2, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 12)
    ).double()
    network.load_state_dict({k: torch.from_numpy(data[f"init_{k.replace('.', '_')}"]) for k in network.state_dict()})
    optimizer = build_optimizer(network.parameters(), lr=data["lr"].item())
    scheduler = build_scheduler(optimizer, horizon=data["cosine_t_max"].item())
    inputs: list[Tensor] = []
    rates: list[float] = []

    def encoder(x_NCHW: Tensor) -> Tensor:
        inputs.append(x_NCHW.detach())
        rates.append(optimizer.param_groups[0]["lr"])
        return normalize(network(x_NCHW), dim=-1)

    all_crops_NCHW = [torch.from_numpy(data[f"crops_{s}"]) for s in range(data["minibatches"].item())]
    delta_VBCHW, losses = torch.zeros(views, images, 3, side, side, dtype=torch.float64), []
    for crops_NCHW in all_crops_NCHW:
        delta_VBCHW, losses_R = free_replays(
            encoder,
            optimizer,
            scheduler,
            crops_NCHW.view(views, images, 3, side, side),
            delta_VBCHW,
            loss_function=emp_ssl_loss,
            replays=replays,
            epsilon=data["epsilon"].item(),
            step_size=data["step_size"].item(),
            project_first=False,
        )
        losses.append(losses_R)
    # What a replay is shown is its crops and the delta that the replay before it left.
    shown = [x_NCHW - all_crops_NCHW[i // replays] for i, x_NCHW in enumerate(inputs)]
    deltas = [*shown[1:], delta_VBCHW.flatten(0, 1)]
    for actual, expected in [
        (torch.cat(losses), data["losses"]),
        (rates, data["lrs"]),
        (torch.stack(deltas), data["deltas"]),
        *((value, data[f"final_{name.replace('.', '_')}"]) for name, value in network.state_dict().items()),
    ]:
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("replays", [1, 2, 5])
def test_a_replay_costs_one_pass_one_update_and_one_tick_of_the_schedule(replays: int) -> None:
    encoder = Encoder()
    optimizer = sgd(encoder)
    scheduler = build_scheduler(optimizer, horizon=None)
    _, losses_R = free_replays(
        encoder, optimizer, scheduler, CROPS_VBCHW, DELTA_VBCHW,
        loss_function=linear_loss, replays=replays, epsilon=EPSILON, step_size=STEP_SIZE,
    )  # fmt: skip
    assert len(encoder.seen) == len(losses_R) == scheduler.last_epoch == replays


def test_replays_follow_the_closed_form_of_a_linear_loss() -> None:
    encoder = Encoder()
    weight_DF = encoder.linear.weight.detach().clone()
    delta_VBCHW, _ = free_replays(
        encoder, sgd(encoder, lr=0.1), None, CROPS_VBCHW, torch.zeros_like(CROPS_VBCHW),
        loss_function=linear_loss, replays=2, epsilon=EPSILON, step_size=STEP_SIZE,
    )  # fmt: skip
    expected_VBCHW = torch.zeros_like(CROPS_VBCHW)
    for _ in range(2):
        gradient_VBCHW = (SLOPE_VBD @ weight_DF).view(V, B, C, H, W)
        weight_DF -= 0.1 * SLOPE_VBD.flatten(0, 1).T @ (CROPS_VBCHW + expected_VBCHW).flatten(2).flatten(0, 1)
        expected_VBCHW = (expected_VBCHW + STEP_SIZE * gradient_VBCHW.sign()).clamp(-EPSILON, EPSILON)
        expected_VBCHW = (CROPS_VBCHW + expected_VBCHW).clamp(0, 1) - CROPS_VBCHW
    torch.testing.assert_close(delta_VBCHW, expected_VBCHW)
    torch.testing.assert_close(encoder.linear.weight.detach(), weight_DF)


@pytest.mark.parametrize("project_first", [True, False])
def test_only_clipping_first_keeps_the_first_replay_inside_the_pixel_box(project_first: bool) -> None:
    encoder, crops_VBCHW = Encoder(), CROPS_VBCHW.round()  # all black or white, so half of any delta leads out
    free_replays(
        encoder, sgd(encoder), None, crops_VBCHW, DELTA_VBCHW,
        loss_function=linear_loss, replays=2, epsilon=EPSILON, step_size=STEP_SIZE, project_first=project_first,
    )  # fmt: skip
    inside = [bool(((x_NCHW >= 0) & (x_NCHW <= 1)).all()) for x_NCHW in encoder.seen]
    assert inside == [project_first, True]


@pytest.mark.parametrize("project_first", [True, False])
def test_free_replays_leave_the_given_delta_and_crops_as_they_were(project_first: bool) -> None:
    encoder, crops_VBCHW, delta_VBCHW = Encoder(), CROPS_VBCHW.clone(), DELTA_VBCHW.clone()
    free_replays(
        encoder, sgd(encoder), None, crops_VBCHW, delta_VBCHW,
        loss_function=linear_loss, replays=2, epsilon=EPSILON, step_size=STEP_SIZE, project_first=project_first,
    )  # fmt: skip
    assert torch.equal(delta_VBCHW, DELTA_VBCHW)
    assert torch.equal(crops_VBCHW, CROPS_VBCHW)


def test_one_replay_without_a_ball_is_an_ordinary_training_step() -> None:
    ours, theirs = Encoder(), Encoder()
    _, losses_R = free_replays(
        ours, sgd(ours), None, CROPS_VBCHW, torch.zeros_like(CROPS_VBCHW),
        loss_function=emp_ssl_loss, replays=1, epsilon=0, step_size=STEP_SIZE,
    )  # fmt: skip
    optimizer, loss = sgd(theirs), emp_ssl_loss(theirs(CROPS_VBCHW.flatten(0, 1)).view(V, B, D))
    loss.backward()
    optimizer.step()
    assert torch.equal(ours.linear.weight, theirs.linear.weight)
    assert losses_R.tolist() == [loss.item()]


def test_replays_do_not_see_gradients_that_were_left_before() -> None:
    clean, littered = Encoder(), Encoder()
    littered.linear.weight.grad = torch.ones_like(littered.linear.weight)
    for encoder in (clean, littered):
        free_replays(
            encoder, sgd(encoder), None, CROPS_VBCHW, DELTA_VBCHW,
            loss_function=linear_loss, replays=1, epsilon=EPSILON, step_size=STEP_SIZE,
        )  # fmt: skip
    assert torch.equal(clean.linear.weight, littered.linear.weight)


def pgd(encoder: Encoder, *, steps: int, keep_attack_gradients: bool) -> Tensor:
    delta_VBCHW, _ = pgd_update(
        encoder, sgd(encoder, lr=0.1), None, CROPS_VBCHW, torch.zeros_like(CROPS_VBCHW),
        loss_function=linear_loss, steps=steps, epsilon=EPSILON, step_size=STEP_SIZE,
        keep_attack_gradients=keep_attack_gradients,
    )  # fmt: skip
    return delta_VBCHW


@pytest.mark.parametrize("keep_attack_gradients", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_pgd_costs_its_steps_and_one_pass_more(steps: int, keep_attack_gradients: bool) -> None:
    encoder = Encoder()
    pgd(encoder, steps=steps, keep_attack_gradients=keep_attack_gradients)
    assert len(encoder.seen) == steps + 1


@pytest.mark.parametrize("keep_attack_gradients", [True, False])
def test_pgd_climbs_to_the_closed_form_of_a_linear_loss(keep_attack_gradients: bool) -> None:
    encoder = Encoder()
    gradient_VBCHW = (SLOPE_VBD @ encoder.linear.weight.detach()).view(V, B, C, H, W)
    delta_VBCHW = pgd(encoder, steps=4, keep_attack_gradients=keep_attack_gradients)
    expected_VBCHW = (CROPS_VBCHW + EPSILON * gradient_VBCHW.sign()).clamp(0, 1) - CROPS_VBCHW
    torch.testing.assert_close(delta_VBCHW, expected_VBCHW)


@pytest.mark.parametrize("keep_attack_gradients", [True, False])
def test_a_pgd_update_uses_the_last_pass_or_as_published_the_sum_of_all(keep_attack_gradients: bool) -> None:
    encoder = Encoder()
    before_DF = encoder.linear.weight.detach().clone()
    pgd(encoder, steps=3, keep_attack_gradients=keep_attack_gradients)
    passes = encoder.seen if keep_attack_gradients else encoder.seen[-1:]
    gradient_DF = sum(SLOPE_VBD.flatten(0, 1).T @ x_NCHW.flatten(1) for x_NCHW in passes)
    torch.testing.assert_close(encoder.linear.weight.detach(), before_DF - 0.1 * gradient_DF)


def test_the_attack_passes_see_the_attack_encoder_and_the_update_the_encoder() -> None:
    encoder, attacked = Encoder(), Encoder()
    optimizer = sgd(encoder)
    scheduler = build_scheduler(optimizer, horizon=None)
    pgd_update(
        encoder, optimizer, scheduler, CROPS_VBCHW, DELTA_VBCHW,
        loss_function=linear_loss, steps=3, epsilon=EPSILON, step_size=STEP_SIZE, attack_encoder=attacked,
    )  # fmt: skip
    assert (len(attacked.seen), len(encoder.seen), scheduler.last_epoch) == (3, 1, 1)


def test_the_attack_passes_see_the_attack_crops_and_the_update_the_crops() -> None:
    encoder, attack_crops_VBCHW = Encoder(), CROPS_VBCHW[[1, 1]]
    delta_VBCHW, _ = pgd_update(
        encoder, sgd(encoder), None, CROPS_VBCHW, torch.zeros_like(CROPS_VBCHW),
        loss_function=linear_loss, steps=3, epsilon=torch.tensor([0, EPSILON]).view(2, 1, 1, 1, 1),
        step_size=STEP_SIZE, attack_crops_VBCHW=attack_crops_VBCHW,
    )  # fmt: skip
    *attack, update_NCHW = encoder.seen
    assert all(torch.equal(x_NCHW[:B], CROPS_VBCHW[1]) for x_NCHW in attack)
    torch.testing.assert_close(update_NCHW, (CROPS_VBCHW + delta_VBCHW).flatten(0, 1), rtol=0, atol=0)
    assert not delta_VBCHW[0].any()
    assert delta_VBCHW[1].all()

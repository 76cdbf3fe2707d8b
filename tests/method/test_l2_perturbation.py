"""The perturbation in the l2 norm: each crop has a ball of its own."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from cfamc_ray.method.inner_maximization import free_replays, pgd_update
from cfamc_ray.method.perturbation import ascend, into_ball, project, steepest

SHAPE = (2, 3, 2, 2)
ROUNDING = 1e-5


def lengths(delta: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(delta.flatten(-3), dim=-1)
    return found


def tensors(low: float, high: float, kind: np.dtype[Any]) -> st.SearchStrategy[Tensor]:
    return arrays(kind, SHAPE, elements={"min_value": low, "max_value": high}).map(torch.from_numpy)


@st.composite
def perturbed_images(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    kind = np.dtype(draw(st.sampled_from(["float32", "float64"])))
    epsilon = draw(st.floats(0, 5, width=32))
    return draw(tensors(-2, 2, kind)), draw(tensors(0, 1, kind)), epsilon


@given(perturbed_images())
def test_projection_is_in_each_crops_ball_and_in_the_pixel_box(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, epsilon = case
    projected = project(delta, images, epsilon=epsilon, norm="l2")
    assert lengths(projected).max() <= epsilon * (1 + ROUNDING)
    assert (images + projected).min() >= 0
    assert (images + projected).max() <= 1


@given(perturbed_images())
def test_projecting_twice_changes_nothing_more(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, epsilon = case
    once = project(delta, images, epsilon=epsilon, norm="l2")
    torch.testing.assert_close(project(once, images, epsilon=epsilon, norm="l2"), once)


@given(perturbed_images(), st.integers(0, 10**6))
def test_nothing_in_the_ball_is_nearer_than_the_projection(case: tuple[Tensor, Tensor, float], seed: int) -> None:
    delta, _, epsilon = case
    other = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=delta.dtype)
    other = epsilon * other / lengths(other)[:, None, None, None]
    nearest = lengths(delta - into_ball(delta, epsilon=epsilon, norm="l2"))
    assert (nearest <= lengths(delta - other) * (1 + ROUNDING) + 1e-6).all()


@given(perturbed_images())
def test_what_is_allowed_is_left_alone(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, _ = case
    allowed = torch.minimum(torch.maximum(delta, -images), 1 - images)
    torch.testing.assert_close(project(allowed, images, epsilon=math.sqrt(12) + 1, norm="l2"), allowed)


@given(perturbed_images(), st.integers(0, 10**6))
def test_no_step_of_length_one_increases_a_linear_function_more(case: tuple[Tensor, Tensor, float], seed: int) -> None:
    gradient, _, _ = case
    step = steepest(gradient, "l2")
    other = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=gradient.dtype)
    other = other / lengths(other)[:, None, None, None]
    gain, less = ((gradient * each).flatten(1).sum(1) for each in (step, other))
    assert (gain >= less - 1e-5).all()
    torch.testing.assert_close(gain, lengths(gradient), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1.0, 1e30])
def test_a_step_has_length_one_however_small_the_gradient(size: float) -> None:
    gradient = torch.full(SHAPE, size)
    torch.testing.assert_close(lengths(steepest(gradient, "l2")), torch.ones(2))


def test_a_gradient_of_zero_moves_its_crop_alone_by_nothing() -> None:
    images, gradient = torch.full(SHAPE, 0.5), torch.zeros(SHAPE)
    gradient[1] = 3.0
    moved = ascend(torch.zeros(SHAPE), gradient, images, step_size=0.1, epsilon=1.0, norm="l2")
    torch.testing.assert_close(lengths(moved), torch.tensor([0.0, 0.1]))


def test_a_radius_for_each_view_keeps_the_views_of_radius_zero_clean() -> None:
    images_VBCHW = torch.full((2, *SHAPE), 0.5)
    epsilon_V1111 = torch.tensor([0.0, 0.2]).view(2, 1, 1, 1, 1)
    delta_VBCHW = torch.zeros_like(images_VBCHW)
    moved_VBCHW = ascend(
        delta_VBCHW, torch.randn_like(images_VBCHW), images_VBCHW, step_size=0.9, epsilon=epsilon_V1111, norm="l2"
    )
    torch.testing.assert_close(lengths(moved_VBCHW), torch.tensor([[0.0, 0.0], [0.2, 0.2]]))


@pytest.mark.parametrize("loop", ["free", "pgd"])
def test_three_steps_up_a_linear_loss_end_at_three_steps_along_its_gradient_or_at_the_border(loop: str) -> None:
    slope_VBCHW = torch.randn(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.zeros(12, requires_grad=True, dtype=torch.float64)

    def encoder(x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(1) + weight

    crops_VBCHW = torch.full_like(slope_VBCHW, 0.5)
    for step, length in ((0.05, 0.15), (0.09, 0.2)):
        settings: dict[str, Any] = {
            "loss_function": lambda z_VBD: (z_VBD.unflatten(-1, (3, 2, 2)) * slope_VBCHW).sum(),
            "epsilon": 0.2,
            "step_size": step,
            "norm": "l2",
        }
        optimizer = torch.optim.SGD([weight], lr=0.1)
        arguments = (encoder, optimizer, None, crops_VBCHW, torch.zeros_like(crops_VBCHW))
        delta_VBCHW, _ = (
            free_replays(*arguments, replays=3, **settings)
            if loop == "free"
            else pgd_update(*arguments, steps=3, **settings)
        )
        expected = length * slope_VBCHW / lengths(slope_VBCHW)[..., None, None, None]
        torch.testing.assert_close(delta_VBCHW, expected)

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from cfamc_ray.method.perturbation import ascend, project

SHAPE = (3, 4)


def tensors(low: float, high: float, kind: np.dtype[Any]) -> st.SearchStrategy[Tensor]:
    return arrays(kind, SHAPE, elements={"min_value": low, "max_value": high}).map(torch.from_numpy)


@st.composite
def perturbed_images(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Any delta, pixels, and a radius that the type of the pixels can represent."""
    kind = np.dtype(draw(st.sampled_from(["float32", "float64"])))
    epsilon = draw(st.floats(0, 1, width=32))
    return draw(tensors(-2, 2, kind)), draw(tensors(0, 1, kind)), epsilon


@given(perturbed_images())
def test_projection_is_in_the_ball_and_the_pixel_box_exactly(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, epsilon = case
    projected = project(delta, images, epsilon=epsilon)
    assert projected.abs().max() <= epsilon
    assert (images + projected).min() >= 0
    assert (images + projected).max() <= 1


@given(perturbed_images())
def test_projecting_twice_changes_nothing_more(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, epsilon = case
    once = project(delta, images, epsilon=epsilon)
    assert torch.equal(project(once, images, epsilon=epsilon), once)


@given(perturbed_images())
def test_entries_that_are_allowed_are_left_alone(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, epsilon = case
    allowed = (delta.abs() <= epsilon) & (delta >= -images) & (delta <= 1 - images)
    assert torch.equal(project(delta, images, epsilon=epsilon)[allowed], delta[allowed])


@given(perturbed_images())
def test_projection_is_the_nearest_allowed_entry(case: tuple[Tensor, Tensor, float]) -> None:
    delta, images, epsilon = case
    low, high = (-images).clamp(min=-epsilon), (1 - images).clamp(max=epsilon)
    assert torch.equal(project(delta, images, epsilon=epsilon), torch.where(delta < low, low, delta.clamp(max=high)))


def test_a_radius_of_zero_leaves_no_perturbation() -> None:
    delta, images = torch.linspace(-1, 1, 12), torch.linspace(0, 1, 12)
    assert project(delta, images, epsilon=0).count_nonzero() == 0


def test_an_unconstrained_step_is_the_step_size_along_the_sign() -> None:
    gradient = torch.tensor([3.0, -1e-20, 0.0])
    delta = torch.tensor([0.01, 0.01, 0.01])
    moved = ascend(delta, gradient, torch.full((3,), 0.5), step_size=0.02, epsilon=0.1)
    torch.testing.assert_close(moved, torch.tensor([0.03, -0.01, 0.01]))


def test_a_step_ends_at_the_border_of_ball_and_box() -> None:
    images, gradient = torch.tensor([0.5, 0.02, 0.97]), torch.tensor([1.0, -1.0, 1.0])
    moved = ascend(torch.zeros(3), gradient, images, step_size=1, epsilon=0.1)
    torch.testing.assert_close(moved, torch.tensor([0.1, -0.02, 0.03]))


def test_a_radius_for_each_view_keeps_the_views_of_radius_zero_clean() -> None:
    images_VN = torch.full((2, 3), 0.5)
    epsilon_V1 = torch.tensor([[0.0], [0.1]])
    moved_VN = ascend(torch.zeros(2, 3), torch.ones(2, 3), images_VN, step_size=0.3, epsilon=epsilon_V1)
    assert torch.equal(moved_VN, torch.tensor([[0.0] * 3, [0.1] * 3]))

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from cfamc_ray.config.losses import EmpSslConfig, LossConfig, NtXentConfig, SupConConfig
from cfamc_ray.method.losses import coding_rate, emp_ssl_loss, nt_xent_loss, sup_con_loss, view_invariance

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(pattern: str) -> pytest.MarkDecorator:
    files = sorted(GOLDEN.glob(pattern))
    return pytest.mark.parametrize("file", files, ids=[file.stem for file in files])


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def assert_pinned(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@golden("total_coding_rate_*.npz")
def test_coding_rate_and_its_gradient_are_the_published_ones(file: Path) -> None:
    data = np.load(file)
    z_BD = torch.from_numpy(data["z"]).requires_grad_()
    (rate,) = coding_rate(z_BD[None], epsilon=data["eps"].item())
    assert_pinned(rate.item(), data["rate"])
    assert_pinned(torch.autograd.grad(rate, z_BD)[0], data["rate_grad"])


@golden("emp_ssl_loss_*.npz")
def test_emp_ssl_loss_its_gradient_and_its_terms_are_the_published_ones(file: Path) -> None:
    data = np.load(file)
    z_ND = torch.from_numpy(data["z"]).requires_grad_()
    config = EmpSslConfig(
        invariance_weight=data["invariance_weight"].item(),
        rate_weight=data["rate_weight"].item(),
        rate_epsilon=data["eps"].item(),
    )
    loss, terms = config.build()(z_ND.reshape(data["crops"].item(), -1, z_ND.shape[-1]))
    assert_pinned(loss.item(), data["loss"])
    assert_pinned(torch.autograd.grad(loss, z_ND)[0], data["grad"])
    assert_pinned(torch.stack(terms).detach(), [-data["invariance"], -data["negative_rate"]])


@golden("nt_xent_*.npz")
def test_nt_xent_and_its_gradients_are_the_published_ones_without_their_scale(file: Path) -> None:
    data = np.load(file)
    z1_BD, z2_BD = (torch.from_numpy(data[name]).requires_grad_() for name in ("z1", "z2"))
    loss = nt_xent_loss(z1_BD, z2_BD, temperature=data["temperature"].item())
    gradient_z1, gradient_z2 = torch.autograd.grad(loss, [z1_BD, z2_BD])
    scale = data["loss_is_scaled_by"].item()
    assert_pinned(loss.item() * scale, data["loss"])
    assert_pinned(gradient_z1 * scale, data["grad_z1"])
    assert_pinned(gradient_z2 * scale, data["grad_z2"])


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 2), st.integers(0, 1000))
def test_coding_rate_is_half_the_logdet_whichever_side_is_smaller(
    V: int, B: int, D: int, epsilon: float, seed: int
) -> None:
    z_VBD = unit_rows(V, B, D, seed=seed)
    covariance_VDD = torch.eye(D, dtype=torch.float64) + D / (B * epsilon) * z_VBD.mT @ z_VBD
    assert_pinned(coding_rate(z_VBD, epsilon=epsilon), torch.linalg.slogdet(covariance_VDD).logabsdet / 2)


@pytest.mark.parametrize(("B", "D"), [(3, 8), (8, 8)])
def test_coding_rate_of_orthonormal_rows_is_known(B: int, D: int) -> None:
    z_VBD = torch.eye(D, dtype=torch.float64)[None, :B]
    assert_pinned(coding_rate(z_VBD, epsilon=0.5), [B / 2 * np.log1p(D / (B * 0.5))])


def test_coding_rate_of_collapsed_rows_is_known_and_below_that_of_spread_rows() -> None:
    collapsed_VBD = unit_rows(1, 1, 6).expand(1, 9, 6)
    (rate,) = coding_rate(collapsed_VBD)
    assert_pinned(rate, np.log1p(6 / 0.2) / 2)
    assert rate < coding_rate(unit_rows(1, 9, 6))[0]


def test_loss_rewards_spreading_the_images() -> None:
    collapsed_VBD, spread_VBD = unit_rows(1, 1, 6).expand(4, 9, 6), unit_rows(1, 9, 6).expand(4, 9, 6)
    assert emp_ssl_loss(spread_VBD) < emp_ssl_loss(collapsed_VBD)


def test_loss_rewards_views_that_agree() -> None:
    alike_VBD, apart_VBD = unit_rows(1, 9, 6).expand(4, 9, 6), unit_rows(4, 9, 6)
    assert emp_ssl_loss(alike_VBD, rate_weight=0) < emp_ssl_loss(apart_VBD, rate_weight=0)


def test_invariance_of_identical_views_is_one() -> None:
    assert view_invariance(unit_rows(1, 5, 7).expand(3, 5, 7)).item() == pytest.approx(1, rel=1e-12)


def test_invariance_of_two_orthogonal_views_is_the_cosine_of_45_degrees() -> None:
    z_VBD = torch.eye(2, dtype=torch.float64)[:, None]
    assert view_invariance(z_VBD).item() == pytest.approx(np.sqrt(0.5), rel=1e-12)


def test_terms_are_those_before_they_are_weighted() -> None:
    z_VBD = unit_rows(3, 4, 5)
    value = EmpSslConfig(invariance_weight=7, rate_weight=11).build()(z_VBD)
    assert_pinned(torch.stack(value.terms), [view_invariance(z_VBD).item(), coding_rate(z_VBD).mean().item()])
    assert_pinned(value.total, emp_ssl_loss(z_VBD, invariance_weight=7, rate_weight=11).item())


@pytest.mark.parametrize("loss", [lambda z: coding_rate(z).mean(), view_invariance, emp_ssl_loss])
def test_loss_of_bfloat16_rows_is_computed_in_float32(loss: Any) -> None:
    z_VBD = unit_rows(3, 6, 16).bfloat16()
    assert loss(z_VBD).dtype == torch.float32
    assert torch.equal(loss(z_VBD), loss(z_VBD.float()))


def test_nt_xent_of_bfloat16_rows_is_computed_in_float32() -> None:
    z1_BD, z2_BD = unit_rows(2, 6, 16).bfloat16()
    expected = nt_xent_loss(z1_BD.float(), z2_BD.float(), temperature=0.07)
    assert torch.equal(nt_xent_loss(z1_BD, z2_BD, temperature=0.07), expected)


def test_nt_xent_of_orthonormal_pairs_is_known() -> None:
    z_BD = torch.eye(4, dtype=torch.float64)
    expected = np.log(np.exp(1 / 0.5) + 6) - 1 / 0.5  # the positive has cosine 1, the other six cosine 0
    assert nt_xent_loss(z_BD, z_BD, temperature=0.5).item() == pytest.approx(expected, rel=1e-12)


class TestSupCon:
    def test_without_labels_and_with_two_views_it_is_nt_xent(self) -> None:
        z_2BD = unit_rows(2, 5, 7).requires_grad_()
        ours = sup_con_loss(z_2BD, torch.full((5,), -1), temperature=0.2)
        theirs = nt_xent_loss(z_2BD[0], z_2BD[1], temperature=0.2)
        assert_pinned(ours.item(), theirs.item())
        assert_pinned(*(torch.autograd.grad(loss, z_2BD)[0] for loss in (ours, theirs)))

    def test_it_is_equation_2_of_the_paper(self) -> None:
        V, B, temperature = 3, 4, 0.3
        z_VBD, labels = unit_rows(V, B, 6), [0, 1, 0, -1]
        rows = [(z_VBD[v, b], b) for v in range(V) for b in range(B)]
        total = 0.0
        for z, b in rows:
            others = [(other, c) for other, c in rows if other is not z]
            positive = [other for other, c in others if c == b or labels[c] == labels[b] >= 0]
            shares = sum(torch.exp(z @ other / temperature) for other, _ in others)
            total -= sum(torch.log(torch.exp(z @ other / temperature) / shares).item() for other in positive) / len(
                positive
            )
        assert_pinned(sup_con_loss(z_VBD, torch.tensor(labels), temperature=temperature), total / len(rows))

    def test_its_term_is_the_mean_cosine_of_positive_pairs(self) -> None:
        z_VBD = torch.eye(3, dtype=torch.float64)[:2].repeat(2, 1, 1)  # two views that agree, of two orthogonal images
        for labels, alignment in (([0, 1], 1.0), ([0, 0], 1 / 3), ([-1, -1], 1.0)):
            value = SupConConfig().build()(z_VBD, torch.tensor(labels))
            assert value.terms[0].item() == pytest.approx(alignment)

    def test_images_of_one_class_attract_each_other(self) -> None:
        alike_VBD, apart_VBD = unit_rows(1, 1, 6).expand(2, 4, 6), unit_rows(2, 4, 6)
        one_class = torch.zeros(4, dtype=torch.int64)
        losses = [sup_con_loss(z_VBD, one_class, temperature=0.1) for z_VBD in (alike_VBD, apart_VBD)]
        assert losses[0] < losses[1]


@pytest.mark.parametrize("config", [EmpSslConfig(), NtXentConfig(), SupConConfig()])
def test_each_loss_has_a_value_for_each_of_its_terms(config: LossConfig) -> None:
    value = config.build()(unit_rows(2, 4, 6), torch.tensor([0, 1, 1, -1]))
    assert len(value.terms) == len(config.terms) > 0
    assert value.total.ndim == 0

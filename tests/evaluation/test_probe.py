import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cfamc_ray.evaluation.probe import fit_probe

N, F, K = 60, 5, 3
L2, TOLERANCE = 1e-2, 1e-6


def features(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Features of three overlapping classes, each feature with a place and a scale of its own."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(N) % K
    centres_KF = torch.randn(K, F, generator=generator, dtype=dtype)
    features_NF = centres_KF[labels_N] + torch.randn(N, F, generator=generator, dtype=dtype)
    return features_NF * torch.tensor([1, 10, 0.1, 3, 1], dtype=dtype) + torch.arange(F), labels_N


def probe(features_NF: Tensor, labels_N: Tensor, *, l2: float = L2, iterations: int = 500) -> nn.Linear:
    return fit_probe(features_NF, labels_N, classes=K, l2=l2, tolerance=TOLERANCE, iterations=iterations)


def test_at_the_end_no_entry_of_the_objectives_gradient_exceeds_the_tolerance() -> None:
    features_NF, labels_N = features()
    head = probe(features_NF, labels_N)
    x, y = features_NF.numpy(), np.eye(K)[labels_N]
    mean, spread = x.mean(0), x.std(0)
    weight, bias = head.weight.numpy() * spread, head.bias.numpy() + head.weight.numpy() @ mean
    standard = (x - mean) / spread
    scores = np.exp(standard @ weight.T + bias)
    error = (scores / scores.sum(1, keepdims=True) - y) / N
    assert np.abs(error.T @ standard + L2 * weight).max() <= TOLERANCE * (1 + 1e-6)
    assert np.abs(error.sum(0)).max() <= TOLERANCE * (1 + 1e-6)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_the_probe_agrees_with_scikit_learns_logistic_regression(l2: float) -> None:
    features_NF, labels_N = features()
    x = features_NF.numpy()
    standard = (x - x.mean(0)) / x.std(0)
    reference = LogisticRegression(C=1 / (l2 * N), tol=1e-10, max_iter=10_000).fit(standard, labels_N)
    probabilities = probe(features_NF, labels_N, l2=l2)(features_NF).softmax(-1)
    np.testing.assert_allclose(probabilities, reference.predict_proba(standard), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fitting_twice_gives_the_same_frozen_layer_in_the_features_type(dtype: torch.dtype) -> None:
    first, second = probe(*features(dtype)), probe(*features(dtype))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.dtype == dtype
    assert not first.weight.requires_grad


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4])
def test_a_feature_that_never_varies_gets_no_weight_and_changes_nothing(constant: float) -> None:
    features_NF, labels_N = features(torch.float32)
    without = probe(features_NF, labels_N)
    head = probe(torch.cat([features_NF, torch.full((N, 1), constant)], dim=1), labels_N)
    assert head.weight[:, -1].count_nonzero() == 0
    torch.testing.assert_close(head.weight[:, :-1], without.weight, rtol=1e-3, atol=1e-4)


def test_scale_and_place_of_a_feature_do_not_change_what_is_predicted() -> None:
    features_NF, labels_N = features()
    moved_NF = features_NF * torch.tensor([1e3, 1e-3, 1, 50, 7]) + torch.tensor([5, -5, 0, 100, 1])
    torch.testing.assert_close(
        probe(moved_NF, labels_N)(moved_NF), probe(features_NF, labels_N)(features_NF), rtol=1e-3, atol=1e-4
    )


def test_a_stronger_l2_gives_a_smaller_head() -> None:
    sizes = [probe(*features(), l2=l2).weight.norm().item() for l2 in (1e-3, 1e-2, 1e-1, 1)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_head_stays_finite_where_features_separate_the_classes() -> None:
    labels_N = torch.arange(N) % K
    head = probe(nn.functional.one_hot(labels_N).double(), labels_N)
    assert head.weight.abs().max() < 100
    assert torch.equal(head(nn.functional.one_hot(labels_N).double()).argmax(-1), labels_N)


def test_the_fit_ends_after_its_iterations() -> None:
    features_NF, labels_N = features()
    early, late = probe(features_NF, labels_N, iterations=1), probe(features_NF, labels_N)
    assert not torch.allclose(early.weight, late.weight, atol=1e-3)


def test_the_fit_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        head = probe(*features())
    assert torch.equal(head.weight, probe(*features()).weight)

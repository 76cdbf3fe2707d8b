"""The Gaussian process against scikit-learn's, against finite differences, and where main effects matter."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from cfamc_ray.gaussian_process import (
    MAIN_LENGTH,
    NOISE,
    Array,
    Kernel,
    _Likelihood,
    fit_kernel,
    posterior,
)


def observed(number: int, features: int, noise: float = 0.3) -> tuple[Array, Array, Array]:
    """Places, values of mean 0 and variance 1, and a known variance of some of them."""
    source = np.random.default_rng(number)
    X_NF = source.random((number, features))
    y_N = np.sin(4 * X_NF[:, 0]) + X_NF.sum(axis=1) + noise * source.normal(size=number)
    return X_NF, (y_N - y_N.mean()) / y_N.std(), np.where(np.arange(number) % 4, 1e-8, 0.5)


@pytest.mark.parametrize(("number", "features"), [(2, 1), (9, 1), (12, 6), (60, 3)])
def test_likelihood_mean_and_covariance_are_those_of_scikit_learn(number: int, features: int) -> None:
    """With main effects of the first feature alone, which scikit-learn computes where there is only one feature."""
    X_NF, y_N, noise_N = observed(number, features)
    new_MF = np.random.default_rng(0).random((7, features))
    lengths_F, mains_F = np.linspace(0.6, 1.4, features), np.full(features, 0.7 if features == 1 else 0.0)
    ours = Kernel(1.3, lengths_F, 0.2, mains_F)
    kernel = ConstantKernel(1.3) * Matern(lengths_F, nu=2.5) + WhiteKernel(0.2)
    if features == 1:
        kernel += ConstantKernel(0.7) * Matern(MAIN_LENGTH, nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=noise_N, optimizer=None).fit(X_NF, y_N)
    with np.errstate(divide="ignore"):
        logs = np.log([ours.amplitude, *lengths_F, ours.noise, *mains_F])
    value, _ = _Likelihood(X_NF, y_N, noise_N)(logs)
    assert -value == pytest.approx(theirs.log_marginal_likelihood_value_)
    mean_M, covariance_MM = posterior(ours, X_NF, y_N, noise_N, new_MF)
    expected_M, noisy_MM = theirs.predict(new_MF, return_cov=True)
    assert mean_M == pytest.approx(expected_M)
    assert covariance_MM == pytest.approx(noisy_MM - ours.noise * np.eye(7), abs=1e-9)


@pytest.mark.parametrize(("number", "features"), [(5, 1), (20, 4)])
def test_the_gradient_of_the_likelihood_is_that_of_finite_differences(number: int, features: int) -> None:
    likelihood = _Likelihood(*observed(number, features))
    for seed in range(3):
        logs = np.random.default_rng(seed).normal(size=2 * features + 2)
        assert check_grad(lambda at: likelihood(at)[0], lambda at: likelihood(at)[1], logs) < 1e-4


def test_main_effects_add_up() -> None:
    """What one feature does at two places of the other is known from one of them."""
    kernel = Kernel(1e-9, np.ones(2), 1e-6, np.ones(2))
    X_NF = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    mean_M, covariance_MM = posterior(kernel, X_NF, np.array([0.0, 1.0, 0.5]), np.zeros(3), np.array([[1.0, 1.0]]))
    assert mean_M == pytest.approx([1.5], abs=1e-3)
    assert covariance_MM[0, 0] < 1e-4


def test_a_weak_feature_is_found_beside_a_strong_one() -> None:
    source = np.random.default_rng(0)
    X_NF, new_NF = source.random((40, 5)), source.random((200, 5))

    def values(at_NF: Array) -> Array:
        effect: Array = 3 * at_NF[:, 0] + 3 * (at_NF[:, 1] - 0.5) ** 2
        return effect

    y_N = values(X_NF) + 0.1 * source.normal(size=40)
    mean, deviation = y_N.mean(), y_N.std()
    standard_N, nothing_N = (y_N - mean) / deviation, np.full(40, 1e-8)
    kernel = fit_kernel(X_NF, standard_N, nothing_N)
    expected_N = mean + deviation * posterior(kernel, X_NF, standard_N, nothing_N, new_NF)[0]
    weak_N = values(new_NF) - 3 * new_NF[:, 0]
    assert np.corrcoef(expected_N - 3 * new_NF[:, 0], weak_N)[0, 1] > 0.85


def test_without_noise_in_the_values_little_noise_is_found_and_with_it_more() -> None:
    quiet, loud = (fit_kernel(*observed(60, 2, noise)).noise for noise in (0.0, 1.0))
    assert NOISE[0] <= quiet < 0.01
    assert loud > 10 * quiet


def test_what_was_seen_is_expected_again_as_far_as_its_noise_allows() -> None:
    X_NF, y_N, _ = observed(30, 2)
    kernel = fit_kernel(X_NF, y_N, np.zeros(30))
    exact = posterior(kernel._replace(noise=1e-9), X_NF, y_N, np.zeros(30), X_NF)
    assert exact[0] == pytest.approx(y_N, abs=1e-3)
    assert np.abs(exact[1]).max() < 1e-3
    unknown = posterior(kernel, X_NF, y_N, np.full(30, 1e6), X_NF)
    assert unknown[0] == pytest.approx(np.zeros(30), abs=1e-3)
    assert unknown[1] == pytest.approx(kernel(X_NF, X_NF), abs=1e-2)

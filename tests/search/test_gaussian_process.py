"""The Gaussian process against scikit-learn's, which computes the same more slowly."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from cfamc_ray.search.gaussian_process import AMPLITUDE, LENGTHS, NOISE, Array, fit_kernel, posterior


def observed(number: int, features: int, noise: float = 0.3) -> tuple[Array, Array, Array]:
    """Places, values of mean 0 and variance 1, and a known variance of some of them."""
    source = np.random.default_rng(number)
    X_NF = source.random((number, features))
    y_N = np.sin(4 * X_NF[:, 0]) + X_NF.sum(axis=1) + noise * source.normal(size=number)
    return X_NF, (y_N - y_N.mean()) / y_N.std(), np.where(np.arange(number) % 4, 1e-8, 0.5)


@pytest.mark.parametrize(("number", "features"), [(2, 1), (9, 1), (12, 6), (60, 3)])
def test_kernel_mean_and_covariance_are_those_of_scikit_learn(number: int, features: int) -> None:
    X_NF, y_N, noise_N = observed(number, features)
    new_MF = np.random.default_rng(0).random((7, features))
    kernel = ConstantKernel(1.0, AMPLITUDE) * Matern(np.ones(features), LENGTHS, nu=2.5) + WhiteKernel(0.1, NOISE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = GaussianProcessRegressor(kernel, alpha=noise_N).fit(X_NF, y_N)
    ours = fit_kernel(X_NF, y_N, noise_N)
    assert np.log([ours.amplitude, *ours.lengths_F, ours.noise]) == pytest.approx(theirs.kernel_.theta, abs=1e-5)
    mean_M, covariance_MM = posterior(ours, X_NF, y_N, noise_N, new_MF)
    expected_M, noisy_MM = theirs.predict(new_MF, return_cov=True)
    assert mean_M == pytest.approx(expected_M, abs=1e-5)
    assert covariance_MM == pytest.approx(noisy_MM - ours.noise * np.eye(7), abs=1e-5)


def test_without_noise_in_the_values_little_noise_is_found_and_with_it_more() -> None:
    quiet, loud = (fit_kernel(*observed(60, 2, noise)).noise for noise in (0.0, 1.0))
    assert quiet == pytest.approx(NOISE[0])
    assert loud > 2 * quiet


def test_what_was_seen_is_expected_again_as_far_as_its_noise_allows() -> None:
    X_NF, y_N, _ = observed(30, 2)
    kernel = fit_kernel(X_NF, y_N, np.zeros(30))
    exact = posterior(kernel._replace(noise=1e-9), X_NF, y_N, np.zeros(30), X_NF)
    assert exact[0] == pytest.approx(y_N, abs=1e-3)
    assert np.abs(exact[1]).max() < 1e-3
    unknown = posterior(kernel, X_NF, y_N, np.full(30, 1e6), X_NF)
    assert unknown[0] == pytest.approx(np.zeros(30), abs=1e-3)
    assert unknown[1] == pytest.approx(kernel(X_NF, X_NF), abs=1e-2)

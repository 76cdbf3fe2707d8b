"""docs/theory.md: its closed forms against simulation, its bounds on random encoders, and its counter-example.

Shapes: N images, d pixels, k features. Linear encoders W_kd of x = y μ + noise with covariance diag(variance_d); a crop
adds noise with covariance diag(crop_d); a perturbation is bounded by ε in every pixel.
"""

import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import spearmanr
from torch.nn import functional as F

from cfamc_ray.cli.effects import main
from cfamc_ray.method.losses import view_invariance
from cfamc_ray.store.records import read_trials

Array = npt.NDArray[np.float64]
ROOT = Path(__file__).parent.parent
N = 200_000
SEEDS = st.integers(0, 2**16)


class Toy(NamedTuple):
    """The data, the crops and the radius."""

    mean_d: Array
    variance_d: Array
    crop_d: Array
    epsilon: float

    @property
    def second_moment(self) -> Array:
        """E x xᵀ, Σ on the page."""
        return np.diag(self.variance_d) + np.outer(self.mean_d, self.mean_d)

    def images(self, number: int, source: np.random.Generator) -> tuple[Array, Array]:
        """Images x_Nd and labels y_N."""
        y_N = source.choice([-1.0, 1.0], size=number)
        noise_Nd = source.normal(size=(number, len(self.mean_d))) * np.sqrt(self.variance_d)
        return y_N[:, None] * self.mean_d + noise_Nd, y_N

    def crop(self, x_Nd: Array, source: np.random.Generator) -> Array:
        return x_Nd + source.normal(size=x_Nd.shape) * np.sqrt(self.crop_d)

    def normalised(self, W_kd: Array) -> Array:
        """The encoder with the same row space and W Σ Wᵀ = I."""
        lower_kk = np.linalg.cholesky(W_kd @ self.second_moment @ W_kd.T)
        return np.linalg.solve(lower_kk, W_kd)

    def invariance(self, W_kd: Array) -> float:
        """I: mean squared distance of the features of two crops."""
        return float(2 * (W_kd**2 @ self.crop_d).sum())

    def adversarial(self, w_d: Array) -> float:
        """A: the largest squared change of a single feature."""
        return float((self.epsilon * np.abs(w_d).sum()) ** 2)

    def errors(self, w_d: Array, bias: float = 0.0) -> tuple[float, float]:
        """Clean and robust error of the sign of w·x + bias."""
        scale, signal = np.sqrt(w_d**2 @ self.variance_d), w_d @ self.mean_d
        clean, robust = (
            float(ndtr((reach - signal - bias) / scale) + ndtr((reach - signal + bias) / scale)) / 2
            for reach in (0.0, self.epsilon * np.abs(w_d).sum())
        )
        return clean, robust


def any_toy(seed: int, d: int = 6) -> tuple[Toy, Array]:
    """A toy and a normalised single feature that points to the first class."""
    source = np.random.default_rng(seed)
    toy = Toy(source.normal(size=d), source.uniform(0.5, 2, d), source.uniform(0.1, 1, d), source.uniform(0.05, 0.3))
    w_d = toy.normalised(source.normal(size=(1, d)))[0]
    return toy, w_d * np.sign(w_d @ toy.mean_d)


def object_and_texture(d: int = 401) -> tuple[Toy, Array, Array]:
    """The page's counter-example with its numbers, and its two features."""
    mean_d, crop_d = np.full(d, 0.05), np.zeros(d)
    mean_d[0], crop_d[0] = 1.0, 0.25
    toy = Toy(mean_d, np.full(d, 0.09), crop_d, 0.1)
    first_1d, others_1d = np.eye(d)[:1], 1 - np.eye(d)[:1]
    return toy, toy.normalised(first_1d)[0], toy.normalised(others_1d)[0]


@given(st.integers(1, 4), SEEDS)
def test_lemma_1_of_features_of_equal_mean_size_white_ones_have_the_largest_rate(k: int, seed: int) -> None:
    toy, _ = any_toy(seed)
    W_kd = np.random.default_rng(seed).normal(size=(k, 6))
    W_kd *= np.sqrt(k / np.trace(W_kd @ toy.second_moment @ W_kd.T))

    def rate(W_kd: Array) -> float:
        return float(np.linalg.slogdet(np.eye(k) + 3.0 * W_kd @ toy.second_moment @ W_kd.T)[1] / 2)

    white_kd = toy.normalised(W_kd)
    assert white_kd @ toy.second_moment @ white_kd.T == pytest.approx(np.eye(k), abs=1e-9)
    assert rate(W_kd) <= rate(white_kd) + 1e-9
    assert rate(white_kd) == pytest.approx(k / 2 * np.log(4))


@pytest.mark.parametrize("seed", range(3))
def test_the_terms_are_those_of_simulated_crops_and_masks(seed: int) -> None:
    toy, _ = any_toy(seed)
    source = np.random.default_rng(seed)
    W_kd = toy.normalised(source.normal(size=(3, 6)))
    x_Nd, _ = toy.images(N, source)
    difference_Nk = (toy.crop(x_Nd, source) - toy.crop(x_Nd, source)) @ W_kd.T
    assert (difference_Nk**2).sum(1).mean() == pytest.approx(toy.invariance(W_kd), rel=0.01)
    kept_d = source.uniform(0.3, 0.9, 6)
    masks_2Nd = source.random((2, *x_Nd.shape)) < kept_d
    masked_2Nk = x_Nd * masks_2Nd / kept_d @ W_kd.T
    of_masks = toy._replace(crop_d=(1 - kept_d) / kept_d * np.diag(toy.second_moment))
    assert ((masked_2Nk[0] - masked_2Nk[1]) ** 2).sum(1).mean() == pytest.approx(of_masks.invariance(W_kd), rel=0.02)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_proposition_1_errors_are_those_of_a_simulation_that_tries_every_corner_of_the_ball(
    seed: int, bias: float
) -> None:
    toy, w_d = any_toy(seed)
    x_Nd, y_N = toy.images(N, np.random.default_rng(seed + 100))
    corners = np.array(list(product([-1, 1], repeat=6))) * toy.epsilon
    margin_N = y_N * (x_Nd @ w_d + bias)
    worst_N = np.min([y_N * (corner @ w_d) for corner in corners], axis=0)
    clean, robust = toy.errors(w_d, bias)
    assert (margin_N <= 0).mean() == pytest.approx(clean, abs=4 * 0.5 / np.sqrt(N))
    assert (margin_N + worst_N <= 0).mean() == pytest.approx(robust, abs=4 * 0.5 / np.sqrt(N))


@given(SEEDS)
def test_proposition_1_clean_accuracy_and_adversarial_invariance_determine_the_robust_error(seed: int) -> None:
    toy, w_d = any_toy(seed)
    m, reach = w_d @ toy.mean_d, np.sqrt(toy.adversarial(w_d))
    clean, robust = toy.errors(w_d)
    assert 0 <= m < 1
    assert robust == pytest.approx(ndtr((reach - m) / np.sqrt(1 - m**2)))
    assert clean == pytest.approx(ndtr(-m / np.sqrt(1 - m**2)))
    assert 0 <= robust - clean <= reach / np.sqrt(2 * np.pi * (1 - m**2)) + 1e-12


@given(st.integers(1, 4), SEEDS)
def test_proposition_2_crops_that_change_every_pixel_bound_the_adversarial_invariance(k: int, seed: int) -> None:
    toy, _ = any_toy(seed)
    W_kd = np.random.default_rng(seed).normal(size=(k, 6))
    corners = np.array(list(product([-1, 1], repeat=6))) * toy.epsilon
    largest = ((corners @ W_kd.T) ** 2).sum(1).max()
    factor = toy.epsilon**2 * (1 / toy.crop_d).sum() / 2
    assert largest <= factor * toy.invariance(W_kd) * (1 + 1e-9)
    tight_d = 1 / toy.crop_d
    assert toy.adversarial(tight_d) == pytest.approx(factor * toy.invariance(tight_d[None]))


def test_proposition_3_equal_clean_error_and_rate_but_the_invariant_feature_is_the_fragile_one() -> None:
    toy, of_object, of_texture = object_and_texture()
    for w_d in (of_object, of_texture):
        assert w_d @ toy.second_moment @ w_d == pytest.approx(1)
    clean, robust = toy.errors(of_texture)
    assert toy.invariance(of_texture[None]) == 0
    assert (clean, robust) == pytest.approx((ndtr(-10 / 3), ndtr(10 / 3)))
    assert toy.errors(of_object) == pytest.approx((ndtr(-10 / 3), ndtr(-3)))
    assert toy.invariance(of_object[None]) == pytest.approx(0.5 / 1.09)
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    rows = {cells[0].strip(): cells[1:] for line in page.splitlines() if len(cells := line.strip("|").split("|")) == 6}
    for name, w_d in (("object", of_object), ("texture", of_texture)):
        invariance, adversarial, together = toy.invariance(w_d[None]), toy.adversarial(w_d), adversarial_crops(toy, w_d)
        told = [float(cell.strip()) for cell in rows[name]]
        assert told == pytest.approx([invariance, adversarial, together, *toy.errors(w_d)], rel=0.01, abs=5e-5)


def test_proposition_3_holds_in_a_simulation() -> None:
    toy, of_object, of_texture = object_and_texture()
    x_Nd, y_N = toy.images(20_000, np.random.default_rng(0))
    for w_d in (of_object, of_texture):
        attacked_Nd = x_Nd - y_N[:, None] * toy.epsilon * np.sign(w_d)
        for pixels_Nd, expected in zip((x_Nd, attacked_Nd), toy.errors(w_d), strict=True):
            error = (y_N * (pixels_Nd @ w_d) <= 0).mean()
            assert error == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / 20_000))


@given(st.integers(2, 60), st.floats(-3, 3), SEEDS)
def test_proposition_3_no_probe_on_invariant_features_is_better_than_a_constant(d: int, bias: float, seed: int) -> None:
    toy, _, _ = object_and_texture(d)
    w_d = np.random.default_rng(seed).normal(size=d)
    w_d[0] = 0
    assert toy.invariance(w_d[None]) == 0
    assert toy.errors(w_d, bias)[1] >= 0.5 - 1e-12


def test_proposition_3_both_errors_tend_to_their_extremes_with_the_number_of_pixels() -> None:
    errors = [toy.errors(texture) for toy, _, texture in map(object_and_texture, (2, 11, 101, 1001))]
    assert all(clean + robust == pytest.approx(1) for clean, robust in errors), "b is half of ε"
    assert [robust for _, robust in errors] == sorted(robust for _, robust in errors)
    assert errors[-1] == pytest.approx((0, 1), abs=1e-6)


def adversarial_crops(toy: Toy, w_d: Array) -> float:
    """Proposition 4: the mean largest squared distance of one feature of two perturbed crops, with Gaussian crops."""
    invariance, reach = toy.invariance(w_d[None]), np.sqrt(toy.adversarial(w_d))
    return float(invariance + 4 * reach * np.sqrt(2 * invariance / np.pi) + 4 * reach**2)


@pytest.mark.parametrize("seed", range(3))
def test_proposition_4_the_invariance_of_perturbed_crops_is_that_of_a_simulation(seed: int) -> None:
    toy, w_d = any_toy(seed)
    source = np.random.default_rng(seed)
    x_Nd, _ = toy.images(N, source)
    corners = [toy.epsilon * np.sign(w_d), -toy.epsilon * np.sign(w_d)]
    first_N, second_N = toy.crop(x_Nd, source) @ w_d, toy.crop(x_Nd, source) @ w_d
    distances = [first_N + one @ w_d - second_N - other @ w_d for one, other in product(corners, corners)]
    assert (np.abs(distances).max(0) ** 2).mean() == pytest.approx(adversarial_crops(toy, w_d), rel=0.01)


@given(SEEDS)
def test_proposition_4_it_bounds_the_robust_error(seed: int) -> None:
    toy, w_d = any_toy(seed)
    m = w_d @ toy.mean_d
    half = np.sqrt(adversarial_crops(toy, w_d) - toy.invariance(w_d[None])) / 2
    assert toy.errors(w_d)[1] <= ndtr((half - m) / np.sqrt(1 - m**2)) + 1e-12


@given(st.integers(1, 3), SEEDS)
def test_proposition_4_several_features_of_perturbed_crops_differ_by_at_least_their_parts(k: int, seed: int) -> None:
    toy, _ = any_toy(seed, d=4)
    source = np.random.default_rng(seed)
    W_kd = source.normal(size=(k, 4))
    corners_Cd = np.array(list(product([-1, 1], repeat=4))) * toy.epsilon
    difference_Nd = source.normal(size=(50, 4)) * np.sqrt(2 * toy.crop_d)
    moved_NCk = (difference_Nd[:, None] + 2 * corners_Cd) @ W_kd.T
    largest_N = (moved_NCk**2).sum(-1).max(1)
    adversarial = ((corners_Cd @ W_kd.T) ** 2).sum(1).max()
    assert (largest_N >= ((difference_Nd @ W_kd.T) ** 2).sum(1) + 4 * adversarial - 1e-9).all()


@pytest.mark.parametrize("seed", range(5))
def test_proposition_5_bounds_the_robust_error_of_a_nonlinear_encoder_and_three_classes(seed: int) -> None:
    """Two pixels, so that a grid covers the ball; the encoder is a random network of one hidden layer."""
    source = np.random.default_rng(seed)
    hidden, out = source.normal(size=(8, 2)), source.normal(size=(3, 8)) / 2

    def features_of(x: Array) -> Array:
        return np.asarray(np.tanh(x @ hidden.T) @ out.T)

    x_Nd, epsilon = source.normal(size=(3000, 2)), 0.1
    head_Kf, bias_K = source.normal(size=(3, 3)), source.normal(size=3)
    logits_NK = features_of(x_Nd) @ head_Kf.T + bias_K
    y_N = np.where(source.random(3000) < 0.9, logits_NK.argmax(1), source.integers(3, size=3000))
    grid = np.array(list(product(np.linspace(-epsilon, epsilon, 9), repeat=2)))
    moved_NGf = features_of(x_Nd[:, None] + grid)
    change_N = np.linalg.norm(moved_NGf - features_of(x_Nd)[:, None], axis=-1).max(1)
    error = ((moved_NGf @ head_Kf.T + bias_K).argmax(-1) != y_N[:, None]).any(1).mean()
    length_NK = np.linalg.norm(head_Kf[y_N][:, None] - head_Kf, axis=-1)
    ahead_NK = np.take_along_axis(logits_NK, y_N[:, None], 1) - logits_NK
    margin_N = np.where(length_NK > 0, ahead_NK / np.where(length_NK > 0, length_NK, 1), np.inf).min(1)
    for gamma in (0.05, 0.2, 0.5, 1.0):
        assert error <= (margin_N <= gamma).mean() + (change_N >= gamma).mean()
        assert (change_N >= gamma).mean() <= (change_N**2).mean() / gamma**2


def test_a_probe_on_features_before_a_robust_projector_can_be_fragile() -> None:
    toy, _, _ = object_and_texture()
    w_d = toy.mean_d / toy.variance_d  # the most accurate linear probe of x
    clean, robust = toy.errors(w_d)
    assert clean == pytest.approx(ndtr(-np.sqrt(2) / 0.3))
    assert robust == pytest.approx(ndtr((2.1 - 2) / (0.3 * np.sqrt(2))))
    assert clean < 1e-5
    assert robust > 0.59


@given(st.integers(2, 9), SEEDS)
def test_the_loss_s_invariance_of_an_image_tells_the_mean_squared_distance_of_its_crops(views: int, seed: int) -> None:
    z_VD = F.normalize(
        torch.randn(views, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )
    squared = torch.pdist(z_VD).square().mean()
    expected = 2 * (1 - view_invariance(z_VD[:, None]) ** 2) * views / (views - 1)
    assert float(squared) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["cifar_small", "quickstart", "scaling/learning"])
def test_the_terms_of_the_loss_are_one_variable_in_the_recorded_studies(name: str) -> None:
    finished = [r for r in read_trials(ROOT / "benchmarks" / "results" / "studies" / name) if r.status == "finished"]
    invariance, rate = zip(*(record.values(["invariance", "coding_rate"]) for record in finished), strict=True)
    assert -0.991 < spearmanr(invariance, rate).statistic < -0.96


def test_the_table_of_recorded_studies_is_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"analysis\.effects (.*--mechanism)$", page, flags=re.M)
    studies = [str(ROOT / word) for word in command.split() if not word.startswith("--")]
    assert main([*studies, "--mechanism", "--out", str(tmp_path)]) == 0
    printed = {_cells(line) for line in capsys.readouterr().out.splitlines()}
    told = {_cells(line) for line in page.splitlines() if "| robust gap" in line or "| robust accuracy" in line}
    assert len(told) >= 20
    assert told <= printed


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|"))

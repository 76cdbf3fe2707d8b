import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cfamc_ray.config.heads import HEADS, HeadConfig
from cfamc_ray.evaluation.probe import default_head, fit_path, train_probe

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
    return fit_path(features_NF, labels_N, classes=K, strengths=[l2], tolerance=TOLERANCE, iterations=iterations)[0]


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


@settings(max_examples=15)
@given(exponents=st.lists(st.floats(-4, 1), min_size=1, max_size=5, unique=True))
def test_each_head_of_a_path_is_that_of_its_strength_alone_in_any_order(exponents: list[float]) -> None:
    features_NF, labels_N = features()
    strengths = [10**exponent for exponent in exponents]
    path = fit_path(features_NF, labels_N, classes=K, strengths=strengths, tolerance=1e-9, iterations=500)
    for l2, head in zip(strengths, path, strict=True):
        alone = fit_path(features_NF, labels_N, classes=K, strengths=[l2], tolerance=1e-9, iterations=500)[0]
        torch.testing.assert_close(head(features_NF), alone(features_NF), rtol=0, atol=1e-3)
        assert not head.weight.requires_grad


def test_the_strongest_head_of_a_path_is_fitted_as_it_would_be_alone() -> None:
    *_, strongest = fit_path(*features(), classes=K, strengths=[1e-3, 1e-1], tolerance=TOLERANCE, iterations=500)
    assert same(strongest, probe(*features(), l2=1e-1))


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


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(config: HeadConfig, count: int = N, **changes: Any) -> nn.Linear:
    features_NF, labels_N = (values[:count] for values in features())
    head = default_head(features_NF, K, seed=0)
    train_probe(head, config, features_NF, labels_N, generator=generator(), **changes)
    return head


def batches(size: int, epochs: int) -> list[list[Tensor]]:
    """The order of the images, as one generator draws it epoch by epoch."""
    order = generator()
    return [[*torch.randperm(N, generator=order).split(size)] for _ in range(epochs)]


def same(first: nn.Linear, second: nn.Linear) -> bool:
    return torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("size", [N, 16, 7], ids=["one batch", "a small last batch", "a last batch of 4"])
def test_clean_epochs_equal_a_plain_loop_with_adam(size: int) -> None:
    features_NF, labels_N = features()
    head = default_head(features_NF, K, seed=0)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    for epoch in batches(size, epochs=3):
        for indices_B in epoch:
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features_NF[indices_B]), labels_N[indices_B]).backward()
            optimizer.step()
    assert same(trained(HeadConfig(fit="adam", lr=3e-4, phases=("clean",), epochs=3, batch_images=size)), head)


def test_the_published_head_for_crops_equals_sgd_written_out() -> None:
    features_NF, labels_N = features()
    head = default_head(features_NF, K, seed=0).requires_grad_(False)
    weights = [head.weight, head.bias]
    momenta = [torch.zeros_like(weight) for weight in weights]
    for epoch in range(20):
        # Cosine over 100 epochs, of which the published evaluation of SimCLR makes 20; one minibatch of all 60.
        rate = 0.03 * (1 + np.cos(np.pi * epoch / 100)) / 2
        error_NK = (head(features_NF).softmax(-1) - nn.functional.one_hot(labels_N)) / N
        for weight, momentum, gradient in zip(
            weights, momenta, (error_NK.T @ features_NF, error_NK.sum(0)), strict=True
        ):
            momentum.mul_(0.9).add_(gradient + 5e-5 * weight)
            weight.sub_(rate * momentum)
    actual = trained(HEADS["published-crops"].model_copy(update={"epochs": 20}))
    torch.testing.assert_close(actual.weight, head.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.bias, head.bias, rtol=0, atol=1e-12)


def test_the_first_update_of_the_published_heads_moves_every_weight_by_the_rate() -> None:
    features_NF, labels_N = features()
    start = default_head(features_NF, K, seed=0).requires_grad_(False)
    error_NK = start(features_NF).softmax(-1) - nn.functional.one_hot(labels_N)  # of all 60: one minibatch
    for config in (HEADS["published-emp"], HEADS["published-simclr"]):
        moved = trained(config.model_copy(update={"phases": ("clean",), "epochs": 1}))
        torch.testing.assert_close(
            moved.weight, start.weight - 3e-4 * (error_NK.T @ features_NF).sign(), rtol=0, atol=1e-8
        )
        torch.testing.assert_close(moved.bias, start.bias - 3e-4 * error_NK.sum(0).sign(), rtol=0, atol=1e-8)


class Moves(TorchDispatchMode):
    """Notes what is copied to the meta device, which stands for a GPU, and refuses indices that are not on it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copied: list[torch.Size] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._to_copy.default and result.is_meta and not args[0].is_meta:
            self.copied.append(result.shape)
        if operation is torch.ops.aten.index.Tensor:
            assert all(index.device == args[0].device for index in args[1])
        return result


@pytest.mark.parametrize("phase", ["clean", "adversarial"])
def test_the_order_of_the_images_moves_to_the_features_device_once_an_epoch(phase: Any) -> None:
    features_NF, labels_N = (values.to("meta") for values in features())
    config = HeadConfig(fit="adam", phases=(phase,), epochs=3, batch_images=7)
    with Moves() as moves:
        train_probe(
            nn.Linear(F, K, device="meta", dtype=torch.float64),
            config,
            features_NF,
            labels_N,
            generator=generator(),
            attacked_features=features_NF.__getitem__,
        )
    assert moves.copied == [(N,)] * 3


@pytest.mark.parametrize(
    ("name", "kinds", "size"),
    [
        ("published-emp", ["clean"] * 2 + ["adversarial"] * 2 + ["clean"] * 2, 256),
        ("published-simclr", ["clean"] * 20, 256),
        ("published-crops", ["clean"] * 100, 100),
    ],
)
def test_published_heads_see_all_images_in_each_of_their_epochs(name: str, kinds: list[str], size: int) -> None:
    count = 270
    seen: list[tuple[str, Tensor]] = []

    class Watched(Tensor):
        """Features that note which of them a clean phase takes."""

        def __getitem__(self, indices_B: Any) -> Tensor:
            seen.append(("clean", indices_B))
            return self.as_subclass(Tensor)[indices_B]

    def attacked_features(indices_B: Tensor) -> Tensor:
        seen.append(("adversarial", indices_B))
        return features_NF[indices_B]

    features_NF, labels_N = torch.randn(count, F, generator=generator()), torch.arange(count) % K
    head = default_head(features_NF, K, seed=0)
    train_probe(
        head,
        HEADS[name],
        features_NF.as_subclass(Watched),
        labels_N,
        generator=generator(),
        attacked_features=attacked_features,
    )
    sizes = [size] * (count // size) + [count % size]
    assert [kind for kind, _ in seen] == [kind for kind in kinds for _ in sizes]
    assert [len(indices_B) for _, indices_B in seen] == sizes * len(kinds)
    for epoch in range(len(kinds)):
        indices_N = torch.cat([indices_B for _, indices_B in seen[epoch * len(sizes) : (epoch + 1) * len(sizes)]])
        assert torch.equal(indices_N.sort().values, torch.arange(count))
        assert not torch.equal(indices_N, torch.arange(count))


def test_adversarial_epochs_read_the_attack_on_the_present_head_and_one_optimizer_serves_all_phases() -> None:
    features_NF, labels_N = features()
    head, expected = default_head(features_NF, K, seed=0), default_head(features_NF, K, seed=0)

    def against(attacked: nn.Linear, indices_B: Tensor) -> Tensor:
        """One step that lowers the right logit most."""
        return features_NF[indices_B] - 0.1 * attacked.weight.detach()[labels_N[indices_B]].sign()

    def minibatches() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch, indices in enumerate(batches(16, epochs=4)):
            for indices_B in indices:
                clean = epoch in (0, 3)
                yield features_NF[indices_B] if clean else against(expected, indices_B), labels_N[indices_B]

    optimizer = torch.optim.Adam(expected.parameters(), lr=3e-4)
    for features_BF, labels_B in minibatches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(features_BF), labels_B).backward()
        optimizer.step()
    config = HeadConfig(fit="adam", lr=3e-4, phases=("clean", "adversarial", "adversarial", "clean"), batch_images=16)
    train_probe(
        head,
        config,
        features_NF,
        labels_N,
        generator=generator(),
        attacked_features=lambda indices_B: against(head, indices_B),
    )
    assert same(head, expected)


def test_training_works_where_gradients_are_switched_off_and_leaves_a_frozen_head() -> None:
    config = HeadConfig(fit="adam", phases=("clean",))
    with torch.no_grad():
        head = trained(config)
    assert same(head, trained(config))
    assert not head.weight.requires_grad
    assert not head.bias.requires_grad


def test_a_fitted_head_can_be_trained_on() -> None:
    fitted = probe(*features())
    head = copy.deepcopy(fitted)
    train_probe(head, HeadConfig(lr=3e-4, phases=("clean",)), *features(), generator=generator())
    torch.testing.assert_close(head.weight, fitted.weight, rtol=0, atol=3.1e-4)
    assert not same(head, fitted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_head_is_torchs_and_leaves_the_global_random_state_alone(dtype: torch.dtype) -> None:
    features_NF = torch.zeros(2, F, dtype=dtype)
    before = torch.get_rng_state()
    head, again, other = (default_head(features_NF, K, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert same(head, nn.Linear(F, K).to(dtype))
    assert same(head, again)
    assert not same(head, other)
    assert head.weight.dtype == dtype

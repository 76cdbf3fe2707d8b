from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.method import norms
from cfamc_ray.training import speedups as module
from cfamc_ray.training.speedups import Speedups, fused_norm_problem, speedups

PAPER = TrialConfig()
"""At full width."""
SMALL = PAPER.with_values({"encoder.width": 8, "pretraining.epochs": 2})
GROUP = PAPER.with_values({"encoder.norm": "group"})
VIT = PAPER.with_values({"encoder.architecture": "vit"})
CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16 = torch.bfloat16


@pytest.fixture
def _with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_for_triton", lambda: None)
    monkeypatch.setattr(module, "fused_norm_problem", lambda _: "")


@pytest.mark.usefixtures("_with_triton")
@pytest.mark.parametrize(
    ("config", "device", "workers", "autocast", "expected"),
    [
        (PAPER, CPU, 1, BF16, Speedups(compile=False, cuda_graph=False, split_stem=False, fused_norm=False)),
        (PAPER, GPU, 1, BF16, Speedups(compile=True, cuda_graph=False, split_stem=True, fused_norm=False)),
        (PAPER, GPU, 1, None, Speedups(compile=True, cuda_graph=False, split_stem=False, fused_norm=False)),
        (GROUP, GPU, 1, BF16, Speedups(compile=True, cuda_graph=False, split_stem=True, fused_norm=False)),
        (VIT, GPU, 1, BF16, Speedups(compile=False, cuda_graph=False, split_stem=True, fused_norm=False)),
        (SMALL, GPU, 1, BF16, Speedups(compile=False, cuda_graph=True, split_stem=True, fused_norm=False)),
        (SMALL, GPU, 2, BF16, Speedups(compile=False, cuda_graph=False, split_stem=True, fused_norm=False)),
    ],
)
def test_auto_takes_what_pays(
    config: TrialConfig, device: torch.device, workers: int, autocast: torch.dtype | None, expected: Speedups
) -> None:
    assert speedups(config, device, workers=workers, autocast=autocast) == expected
    for name in Speedups._fields:
        changed = config.with_values({f"pretraining.{name}": False})
        assert speedups(changed, device, workers=workers, autocast=autocast) == expected._replace(**{name: False})


def test_without_a_compiler_auto_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_for_triton", lambda: "a C compiler")
    found = speedups(PAPER, GPU, workers=1, autocast=BF16)
    assert found == Speedups(compile=False, cuda_graph=False, split_stem=True, fused_norm=False)


@pytest.mark.parametrize(
    ("config", "key", "device", "workers", "autocast", "needs"),
    [
        (SMALL, "cuda_graph", CPU, 1, BF16, "a GPU"),
        (SMALL, "cuda_graph", GPU, 2, BF16, "one worker"),
        (SMALL, "split_stem", GPU, 1, None, "pretraining.precision: bfloat16"),
        (SMALL, "fused_norm", CPU, 1, BF16, "a GPU"),
        (SMALL, "fused_norm", GPU, 1, None, "pretraining.precision: bfloat16"),
        (GROUP, "fused_norm", GPU, 1, BF16, "a ResNet with encoder.norm: batch"),
        (VIT, "fused_norm", GPU, 1, BF16, "a ResNet with encoder.norm: batch"),
    ],
)
def test_what_cannot_be_done_is_refused(
    config: TrialConfig, key: str, device: torch.device, workers: int, autocast: torch.dtype | None, needs: str
) -> None:
    config = config.with_values({f"pretraining.{key}": True})
    with pytest.raises(InputError, match=f"pretraining.{key}: true needs {needs}"):
        speedups(config, device, workers=workers, autocast=autocast)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What stands in for the kernels, on the CPU: the last of the list."""
    chosen: list[Any] = []

    def use(network: Any, on: bool) -> None:
        network.fused = chosen[-1] if on else None

    monkeypatch.setattr(module, "use_fused_norm", use)
    monkeypatch.setattr(norms, "_fits", lambda *_: True)
    fused_norm_problem.cache_clear()
    yield chosen
    fused_norm_problem.cache_clear()


def right(x: Tensor, residual: Tensor, *affine: Tensor, momentum: float, eps: float) -> Tensor:
    weight, bias, mean, var = affine
    return F.relu(F.batch_norm(x, mean, var, weight, bias, training=True, momentum=momentum, eps=eps) + residual)


def without_the_residual(x: Tensor, residual: Tensor, *affine: Tensor, **how: float) -> Tensor:
    return right(x, residual * 0, *affine, momentum=how["momentum"], eps=how["eps"])


def with_stale_statistics(x: Tensor, residual: Tensor, *affine: Tensor, **how: float) -> Tensor:
    return right(x, residual, *affine, momentum=0.0, eps=how["eps"])


def with_a_wrong_gradient(x: Tensor, residual: Tensor, *affine: Tensor, **how: float) -> Tensor:
    return right(x, residual.detach() + 0 * residual, *affine, momentum=how["momentum"], eps=how["eps"])


def refused(*_: Tensor, **__: float) -> Tensor:
    raise RuntimeError("no kernel image is available\nfor execution")


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (right, ""),
        (without_the_residual, "the kernels differ from torch's"),
        (with_stale_statistics, "the kernels differ from torch's"),
        (with_a_wrong_gradient, "the kernels differ from torch's"),
        (refused, "RuntimeError: no kernel image is available"),
    ],
)
def test_kernels_are_compared_with_those_of_torch(kernel: Any, problem: str, fused: list[Any]) -> None:
    fused.append(kernel)
    found = fused_norm_problem(CPU)
    assert found.startswith(problem) if problem else not found


def test_kernels_that_differ_are_told_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_for_triton", lambda: None)
    monkeypatch.setattr(module, "fused_norm_problem", lambda _: "the kernels differ")
    asked = SMALL.with_values({"pretraining.fused_norm": True})
    with pytest.warns(UserWarning, match="pretraining.fused_norm: the kernels differ; torch's own"):
        assert not speedups(asked, GPU, workers=1, autocast=BF16).fused_norm
    monkeypatch.setattr(module, "fused_norm_problem", lambda _: "")
    assert speedups(asked, GPU, workers=1, autocast=BF16).fused_norm

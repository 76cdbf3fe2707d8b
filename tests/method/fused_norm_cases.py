"""What the kernels compute, on a GPU or in Triton's interpreter; test_fused_norm.py runs this file in a process.

The interpreter must be chosen (TRITON_INTERPRET=1) before Triton is imported.
"""

import os
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method import fused_norm, norms
from cfamc_ray.method.encoder import InChunks, SelfSupervisedEncoder
from cfamc_ray.method.fused_norm import batch_norm_relu
from cfamc_ray.method.norms import BatchNorm, use_fused_norm

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
ON_GPU = pytest.mark.skipif(DEVICE.type == "cpu", reason="only on a GPU")
SHAPES = [(4, 8, 9, 9), (3, 12, 5, 7), (2, 36, 5, 3), (3, 100, 3, 3), (5, 512, 1, 1)]


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that small inputs have several parts, of several tiles, the last of which are not full."""
    monkeypatch.setattr(fused_norm, "TILE", 256)
    monkeypatch.setattr(fused_norm, "PROGRAMS", 4)


def channels_last(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)
    return values.contiguous(memory_format=torch.channels_last)


def compare(shape: tuple[int, int, int, int], dtype: torch.dtype, *, residual: bool, mean: float = 3.0) -> None:
    """Outputs, gradients and running statistics against torch's operations in float64."""
    C = shape[1]
    x_NCHW, dy_NCHW = channels_last(shape, 0, dtype) * 2 + mean, channels_last(shape, 1, dtype)
    weight_C, bias_C, mean_C, var_C = (channels_last((C, 1, 1, 1), seed).flatten() for seed in (2, 3, 4, 5))
    inputs = [x_NCHW, channels_last(shape, 6, dtype) if residual else None, weight_C, bias_C]
    doubles = [None if t is None else t.double().requires_grad_() for t in inputs]
    running = (mean_C, var_C.abs())
    expected_running = (running[0].double(), running[1].double())
    x, r, weight, bias = doubles
    assert x is not None
    expected = F.batch_norm(x, *expected_running, weight, bias, True, 0.3, 1e-3)
    expected = F.relu(expected if r is None else expected + r)
    learned = [t for t in inputs if t is not None]
    for t in learned:
        t.requires_grad_()
    y_NCHW = batch_norm_relu(*inputs, *running, momentum=0.3, eps=1e-3)  # type: ignore[arg-type, misc]
    assert y_NCHW.dtype == dtype
    assert y_NCHW.is_contiguous(memory_format=torch.channels_last)
    got = [y_NCHW.detach(), *torch.autograd.grad(y_NCHW, learned, dy_NCHW), *running]
    gradients = torch.autograd.grad(expected, [t for t in doubles if t is not None], dy_NCHW.double())
    for value, reference in zip(got, [expected.detach(), *gradients, *expected_running], strict=True):
        error = (value.double() - reference).norm() / reference.norm()
        assert error < (1e-2 if value.dtype == torch.bfloat16 else 1e-5), (value.shape, error)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize(
    ("shape", "dtype"), [*((shape, torch.float32) for shape in SHAPES), (SHAPES[1], torch.bfloat16)]
)
@pytest.mark.parametrize("residual", [False, True])
def test_values_gradients_and_running_statistics_are_torchs(
    shape: tuple[int, int, int, int], dtype: torch.dtype, residual: bool
) -> None:
    compare(shape, dtype, residual=residual)


@pytest.mark.parametrize("residual", [False, True])
def test_the_tiles_that_are_used_compute_the_same(residual: bool) -> None:
    compare((3, 24, 9, 9), torch.bfloat16, residual=residual)


@ON_GPU
@pytest.mark.parametrize(("C", "side"), [(64, 32), (128, 16), (256, 8), (512, 4)])
@pytest.mark.parametrize("residual", [False, True])
def test_at_the_papers_shapes(C: int, side: int, residual: bool) -> None:
    compare((400, C, side, side), torch.bfloat16, residual=residual)


@pytest.mark.usefixtures("_small_tiles")
def test_a_mean_far_above_the_deviation_does_not_blur_the_variance() -> None:
    """In float32 a square of 3,000 has steps of 0.5: without a shift, nothing would be left of a variance of 0.01."""
    x_NCHW = channels_last((4, 8, 9, 9), 0) * 0.1 + 3000
    ones_C, zeros_C = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    var_C = zeros_C.clone()
    batch_norm_relu(x_NCHW, None, ones_C, zeros_C, zeros_C.clone(), var_C, momentum=1.0, eps=1e-5)
    torch.testing.assert_close(var_C, x_NCHW.double().var((0, 2, 3)).float(), rtol=1e-4, atol=0)


def test_nan_passes_and_zero_blocks_as_in_torch() -> None:
    x_NCHW = channels_last((2, 8, 3, 3), 0)
    residual_NCHW = torch.zeros_like(x_NCHW)
    residual_NCHW[0, 0, 0, 0] = torch.nan
    residual_NCHW.requires_grad_()
    zeros_C = torch.zeros(8, device=DEVICE)  # as weight and bias: the output is the residual
    y_NCHW = batch_norm_relu(
        x_NCHW, residual_NCHW, zeros_C, zeros_C, zeros_C.clone(), zeros_C.clone(), momentum=0.1, eps=1e-5
    )
    assert torch.equal(y_NCHW.isnan(), residual_NCHW.isnan())
    y_NCHW.sum().backward()
    assert residual_NCHW.grad is not None
    assert torch.equal(residual_NCHW.grad, residual_NCHW.isnan().float())


@pytest.mark.parametrize("residual", [False, True])
def test_the_operators_keep_the_rules_of_torch(residual: bool) -> None:
    """Schemas, types and layouts on fake tensors, and gradients as torch.compile traces them."""
    shape = (2, 12, 3, 3)
    x_NCHW, r_NCHW = channels_last(shape, 0).requires_grad_(), channels_last(shape, 1).requires_grad_()
    weight_C, bias_C, mean_C = (torch.randn(12, device=DEVICE, requires_grad=True) for _ in range(3))
    torch.library.opcheck(
        fused_norm._batch_statistics, (x_NCHW.detach(), mean_C.detach(), mean_C.detach() + 1, 0.1, 1e-5)
    )
    statistics_2C = torch.stack([mean_C.detach(), mean_C.detach().abs() + 0.5])
    r_or_none = r_NCHW if residual else None
    torch.library.opcheck(fused_norm._normalize, (x_NCHW, r_or_none, weight_C, bias_C, statistics_2C))
    _, inactive_MK = fused_norm._normalize(x_NCHW, r_or_none, weight_C, bias_C, statistics_2C)
    torch.library.opcheck(
        fused_norm._normalize_backward,
        (r_NCHW.detach(), x_NCHW.detach(), inactive_MK, weight_C.detach(), statistics_2C, residual),
    )


def encoders(monkeypatch: pytest.MonkeyPatch, architecture: str) -> tuple[SelfSupervisedEncoder, SelfSupervisedEncoder]:
    """Without and with the kernels, which take float32 here, in which the two can be compared."""
    monkeypatch.setattr(norms, "_fits", lambda *_: True)
    monkeypatch.setattr(fused_norm, "PROGRAMS", 4)  # the interpreter is slow
    torch.manual_seed(0)
    config = EncoderConfig.model_validate(
        {"architecture": architecture, "width": 4, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 4}
    )
    plain = SelfSupervisedEncoder(config).to(DEVICE).to(memory_format=torch.channels_last)
    fused = deepcopy(plain)
    use_fused_norm(fused, True)
    assert sum(module.fused is not None for module in fused.modules() if isinstance(module, BatchNorm)) > 0
    return plain, fused


def trained(encoder: nn.Module, images_NCHW: Tensor) -> list[Tensor]:
    """Embeddings, all gradients and all buffers after one pass."""
    images_NCHW = images_NCHW.clone().requires_grad_()
    z_ND = encoder(images_NCHW)
    (z_ND * torch.arange(z_ND.numel(), device=DEVICE).view_as(z_ND).cos()).sum().backward()
    gradients = [t.grad for t in (images_NCHW, *encoder.parameters()) if t.grad is not None]
    assert len(gradients) == 1 + len(list(encoder.parameters()))
    return [z_ND.detach(), *gradients, *(buffer.clone() for buffer in encoder.buffers())]


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_an_encoder_learns_the_same(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    plain, fused = encoders(monkeypatch, architecture)
    images_NCHW = channels_last((6, 3, 8, 8), 1)
    for value, reference in zip(trained(fused, images_NCHW), trained(plain, images_NCHW), strict=True):
        # Biases before a batch norm have no gradient but rounding errors.
        assert (value - reference).float().norm() <= 1e-2 * reference.float().norm() + 1e-4


def test_recomputed_activations_count_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = encoders(monkeypatch, "resnet18")
    again, images_NCHW = deepcopy(kept), channels_last((6, 3, 8, 8), 1)
    expected = trained(InChunks(kept, 3), images_NCHW)
    for value, reference in zip(
        trained(InChunks(again, 3, activation_checkpointing=True), images_NCHW), expected, strict=True
    ):
        assert torch.equal(value, reference)


def test_a_compiled_encoder_is_one_graph_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused = encoders(monkeypatch, "resnet18")
    compiled, images_NCHW = deepcopy(fused), channels_last((4, 3, 8, 8), 1)
    expected = trained(fused, images_NCHW)
    graph = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for value, reference in zip(trained(graph, images_NCHW), expected, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-5)


@ON_GPU
def test_a_cuda_graph_replays_what_was_captured() -> None:
    x_NCHW, ones_C = channels_last((8, 64, 8, 8), 0, torch.bfloat16), torch.ones(64, device=DEVICE)
    running = [torch.zeros_like(ones_C), ones_C.clone()]

    def step() -> Tensor:
        return batch_norm_relu(x_NCHW, x_NCHW, ones_C, ones_C, *running, momentum=0.1, eps=1e-5)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y_NCHW = step()
    x_NCHW.copy_(channels_last((8, 64, 8, 8), 1, torch.bfloat16))
    graph.replay()
    assert torch.equal(y_NCHW, step())

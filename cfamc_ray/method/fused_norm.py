"""Batch norm in training mode, residual addition and ReLU as Triton kernels, for activations in channels_last.

They are memory-bound. In the forward pass, one kernel reads x for the statistics, and one reads x and the residual and
writes y. In the backward pass, one kernel sums over positions and one writes the gradients; neither reads y, because
one bit per value stores where ReLU was inactive. Sums have a fixed order and no atomics: equal inputs give equal
outputs, bit for bit.

Shapes: N images, C/H/W channels/height/width, M = N H W positions in P parts, K = ⌈C/8⌉ bytes of bits, and a tile
of TM positions and TC channels. In a kernel, x_MC is the address of a tensor of shape (M, C); dy, dx and dr are the
gradients of y, x and the residual.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

TILE = 2048
"""Number of values of a tile, TM TC."""
WARPS = 8
"""Warps of a program. A thread has 8 values of a tile: in bfloat16 one load of 16 bytes, and one byte of bits."""
CHANNELS = 64
"""Largest number of channels of a tile: 128 bytes of a position in bfloat16."""
PROGRAMS = 512
"""Number of programs that share a sum, a power of 2: an H100 runs all at once. Fixed, so that all GPUs sum equally."""


def batch_norm_relu(
    x_NCHW: Tensor,
    residual_NCHW: Tensor | None,
    weight_C: Tensor,
    bias_C: Tensor,
    running_mean_C: Tensor,
    running_var_C: Tensor,
    *,
    momentum: float,
    eps: float,
) -> Tensor:
    """``relu(batch_norm(x, training=True) + residual)``, computed in float32 and rounded once.

    Args:
        x_NCHW: channels_last, bfloat16 or float32, at least 2 positions.
        residual_NCHW: tensor of x's shape, type and layout; None adds nothing.
        weight_C: scale, float32, like the next three.
        bias_C: bias, added after scaling.
        running_mean_C: updated in place.
        running_var_C: updated in place with the unbiased variance.
        momentum: weight of this batch in the running statistics.
        eps: added to the variance.

    Returns:
        y_NCHW, with x's type and layout.
    """
    statistics_2C = _batch_statistics(x_NCHW.detach(), running_mean_C, running_var_C, momentum, eps)
    y_NCHW, _ = _normalize(x_NCHW, residual_NCHW, weight_C, bias_C, statistics_2C)
    return y_NCHW  # type: ignore[no-any-return]


# Custom operators of torch, which torch.compile does not look into. The statistics are a separate operator, because an
# operator that changes its inputs has no gradient; the gradient through them is part of `_normalize_backward`.
@torch.library.custom_op("cfamc_ray::batch_statistics", mutates_args=("running_mean_C", "running_var_C"))
def _batch_statistics(
    x_NCHW: Tensor, running_mean_C: Tensor, running_var_C: Tensor, momentum: float, eps: float
) -> Tensor:
    """Mean and 1 / sqrt(variance + eps) of the batch."""
    (M, C), tile = _size(x_NCHW), _tile(x_NCHW)
    P, rows = _parts(M, tile)
    moments_2PC, statistics_2C = running_mean_C.new_empty(2, P, C), running_mean_C.new_empty(2, C)
    outputs = (statistics_2C, running_mean_C, running_var_C)
    with torch.cuda.device_of(x_NCHW):
        _moments[_grid(P, tile)](x_NCHW, moments_2PC, M, P, rows, **tile)
        tile |= {"TM": PROGRAMS, "TC": 16}
        _merge[_grid(1, tile)](moments_2PC, *outputs, M, P, rows, momentum, eps, **tile)
    return statistics_2C


@torch.library.custom_op("cfamc_ray::normalize_relu", mutates_args=())
def _normalize(
    x_NCHW: Tensor, residual_NCHW: Tensor | None, weight_C: Tensor, bias_C: Tensor, statistics_2C: Tensor
) -> tuple[Tensor, Tensor]:
    """The output y_NCHW, and the bits inactive_MK."""
    (M, _), tile = _size(x_NCHW), _tile(x_NCHW)
    assert residual_NCHW is None or (residual_NCHW.shape, _size(residual_NCHW)) == (x_NCHW.shape, _size(x_NCHW))
    inputs, outputs = (x_NCHW, residual_NCHW, weight_C, bias_C, statistics_2C), _new_outputs(x_NCHW)
    with torch.cuda.device_of(x_NCHW):
        _forward[_grid(triton.cdiv(M, tile["TM"]), tile)](*inputs, *outputs, M, **tile)
    return outputs


@torch.library.custom_op("cfamc_ray::normalize_relu_backward", mutates_args=())
def _normalize_backward(
    dy_NCHW: Tensor, x_NCHW: Tensor, inactive_MK: Tensor, weight_C: Tensor, statistics_2C: Tensor, adds: bool
) -> list[Tensor]:
    """Gradients of x, of bias and weight as one (2, C), and of the residual where the forward pass ``adds`` one."""
    (M, C), tile = _size(x_NCHW), _tile(x_NCHW)
    P, rows = _parts(M, tile)
    # The gradient of a mean over the image is expanded, not in channels_last.
    inputs = (dy_NCHW.contiguous(memory_format=torch.channels_last), x_NCHW, inactive_MK, statistics_2C)
    sums_2PC, dx_NCHW = statistics_2C.new_empty(2, P, C), torch.empty_like(x_NCHW)
    dr_NCHW = torch.empty_like(x_NCHW) if adds else None
    with torch.cuda.device_of(x_NCHW):
        _sums[_grid(P, tile)](*inputs, sums_2PC, M, P, rows, **tile)
        sums_2C = sums_2PC.sum(1)
        grid = _grid(triton.cdiv(M, tile["TM"]), tile)
        _backward[grid](*inputs, weight_C, sums_2C, dx_NCHW, dr_NCHW, M, **tile)
    return [dx_NCHW, sums_2C] if dr_NCHW is None else [dx_NCHW, sums_2C, dr_NCHW]


_batch_statistics.register_fake(lambda x, mean, *_: mean.new_empty(2, len(mean)))
_normalize.register_fake(lambda x, *_: _new_outputs(x))
_normalize_backward.register_fake(
    lambda _, x, bits, weight, statistics, adds: [torch.empty_like(t) for t in (x, statistics, x)[: 2 + adds]]
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x_NCHW, residual_NCHW, weight_C, _, statistics_2C = inputs
    ctx.save_for_backward(x_NCHW, output[1], weight_C, statistics_2C)
    ctx.adds = residual_NCHW is not None


def _gradients(ctx: Any, dy_NCHW: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    dx_NCHW, sums_2C, *dr = _normalize_backward(dy_NCHW, *ctx.saved_tensors, ctx.adds)
    return dx_NCHW, dr[0] if dr else None, sums_2C[1], sums_2C[0], None


_normalize.register_autograd(_gradients, setup_context=_save)


def _size(x_NCHW: Tensor) -> tuple[int, int]:
    """The sizes M and C of a tensor."""
    assert x_NCHW.is_contiguous(memory_format=torch.channels_last)
    return x_NCHW[:, 0].numel(), x_NCHW.shape[1]


def _new_outputs(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    N, C, H, W = x_NCHW.shape
    return torch.empty_like(x_NCHW), x_NCHW.new_empty(N * H * W, (C + 7) // 8, dtype=torch.uint8)


def _tile(x_NCHW: Tensor) -> dict[str, int]:
    """Constants of the kernels: the tile, and C, whose divisors determine how wide loads may be."""
    C = x_NCHW.shape[1]
    TC = min(max(triton.next_power_of_2(C), 8), CHANNELS)
    return {"C": C, "TM": TILE // TC, "TC": TC, "num_warps": WARPS}


def _grid(along_M: int, tile: dict[str, int]) -> tuple[int]:
    return (along_M * triton.cdiv(tile["C"], tile["TC"]),)


def _parts(M: int, tile: dict[str, int]) -> tuple[int, int]:
    """Number of parts of the positions that are reduced separately, and the positions of each but the last."""
    most = max(PROGRAMS // _grid(1, tile)[0], 1)
    rows = triton.cdiv(triton.cdiv(M, tile["TM"]), most) * tile["TM"]
    return triton.cdiv(M, rows), rows


@triton.jit
def _place(C: constexpr, TC: constexpr):
    """Index of a program along the positions, and its first channel; neighbouring programs share rows of memory."""
    return tl.program_id(0) // tl.cdiv(C, TC), tl.program_id(0) % tl.cdiv(C, TC) * TC


@triton.jit
def _offsets(m, c, M, C: constexpr, TM: constexpr, TC: constexpr):
    """64-bit offsets of the tile at (m, c), and which of them are inside the tensor."""
    rows, columns = m + tl.arange(0, TM)[:, None], c + tl.arange(0, TC)[None, :]
    return rows.to(tl.int64) * C + columns, (rows < M) & (columns < C)


@triton.jit
def _load(pointer_MC, m, c, M, C: constexpr, TM: constexpr, TC: constexpr):
    offsets, inside = _offsets(m, c, M, C, TM, TC)
    return tl.load(pointer_MC + offsets, mask=inside, other=0).to(tl.float32)


@triton.jit
def _store(pointer_MC, values, m, c, M, C: constexpr, TM: constexpr, TC: constexpr):
    offsets, inside = _offsets(m, c, M, C, TM, TC)
    tl.store(pointer_MC + offsets, values, mask=inside)


@triton.jit
def _load_gradient(dy_MC, inactive_MK, m, c, M, C: constexpr, TM: constexpr, TC: constexpr):
    """The gradient before ReLU: dy where ReLU was active, else 0."""
    dy = _load(dy_MC, m, c, M, C, TM, TC)
    offsets, inside = _offsets(m, c // 8, M, tl.cdiv(C, 8), TM, TC // 8)
    bits = tl.load(inactive_MK + offsets, mask=inside, other=0)[:, :, None] >> tl.arange(0, 8)[None, None, :] & 1
    return tl.where(tl.reshape(bits, [TM, TC]) != 0, 0.0, dy)


@triton.jit
def _moments(x_MC, moments_2PC, M, P, rows, C: constexpr, TM: constexpr, TC: constexpr):
    """Mean and squared deviations of each part, computed relative to its first row, so that a large mean cancels."""
    p, c = _place(C, TC)
    first, last = p * rows, tl.minimum(p * rows + rows, M)
    shift_1C = _load(x_MC, first, c, M, C, 1, TC)
    sums, squares = tl.zeros([TM, TC], tl.float32), tl.zeros([TM, TC], tl.float32)
    for m in tl.range(first, last, TM, loop_unroll_factor=2):  # two loads at once
        shifted = _load(x_MC, m, c, M, C, TM, TC) - shift_1C
        shifted = tl.where(m + tl.arange(0, TM)[:, None] < M, shifted, 0.0)
        sums += shifted
        squares += shifted * shifted
    sum_1C = tl.sum(sums, 0, keep_dims=True)
    mean_1C = sum_1C / (last - first)
    _store(moments_2PC, shift_1C + mean_1C, p, c, P, C, 1, TC)
    _store(moments_2PC + P * C, tl.sum(squares, 0, keep_dims=True) - mean_1C * sum_1C, p, c, P, C, 1, TC)


@triton.jit
def _merge(
    moments_2PC, statistics_2C, mean_C, var_C, M, P, rows, momentum, eps, C: constexpr, TM: constexpr, TC: constexpr
):
    """Merge parts of unequal counts and means (Chan, Golub and LeVeque, 1983), and update the running statistics."""
    _, c = _place(C, TC)
    share_P1 = tl.maximum(tl.minimum(M - tl.arange(0, TM)[:, None] * rows, rows), 0) / M
    mean_PC = _load(moments_2PC, 0, c, P, C, TM, TC)
    mean_1C = tl.sum(share_P1 * mean_PC, 0, keep_dims=True)
    mean_PC -= mean_1C
    var_PC = _load(moments_2PC + P * C, 0, c, P, C, TM, TC) / M + share_P1 * mean_PC * mean_PC
    var_1C = tl.sum(var_PC, 0, keep_dims=True)
    _store(statistics_2C, mean_1C, 0, c, 2, C, 1, TC)
    _store(statistics_2C, 1 / tl.sqrt_rn(var_1C + eps), 1, c, 2, C, 1, TC)
    mean_1C = (1 - momentum) * _load(mean_C, 0, c, 1, C, 1, TC) + momentum * mean_1C
    var_1C = (1 - momentum) * _load(var_C, 0, c, 1, C, 1, TC) + momentum * var_1C * (M / (M - 1))
    _store(mean_C, mean_1C, 0, c, 1, C, 1, TC)
    _store(var_C, var_1C, 0, c, 1, C, 1, TC)


@triton.jit
def _forward(
    x_MC, residual_MC, weight_C, bias_C, statistics_2C, y_MC, inactive_MK, M, C: constexpr, TM: constexpr, TC: constexpr
):
    m, c = _place(C, TC)
    m *= TM
    scale_1C = _load(statistics_2C, 1, c, 2, C, 1, TC) * _load(weight_C, 0, c, 1, C, 1, TC)
    y = _load(x_MC, m, c, M, C, TM, TC) - _load(statistics_2C, 0, c, 2, C, 1, TC)
    y = y * scale_1C + _load(bias_C, 0, c, 1, C, 1, TC)
    if residual_MC is not None:
        y += _load(residual_MC, m, c, M, C, TM, TC)
    inactive = y <= 0  # False for NaN, which passes, as in torch
    _store(y_MC, tl.where(inactive, 0.0, y), m, c, M, C, TM, TC)
    bits = tl.reshape(inactive.to(tl.int32), [TM, TC // 8, 8]) << tl.arange(0, 8)[None, None, :]
    _store(inactive_MK, tl.sum(bits, 2).to(tl.uint8), m, c // 8, M, tl.cdiv(C, 8), TM, TC // 8)


@triton.jit
def _sums(dy_MC, x_MC, inactive_MK, statistics_2C, sums_2PC, M, P, rows, C: constexpr, TM: constexpr, TC: constexpr):
    """Sums over each part: of the gradient before ReLU, and of its product with the normalised x."""
    p, c = _place(C, TC)
    first, last = p * rows, tl.minimum(p * rows + rows, M)
    mean_1C = _load(statistics_2C, 0, c, 2, C, 1, TC)
    sums, products = tl.zeros([TM, TC], tl.float32), tl.zeros([TM, TC], tl.float32)
    for m in tl.range(first, last, TM, loop_unroll_factor=2):
        x = _load(x_MC, m, c, M, C, TM, TC)
        gradient = _load_gradient(dy_MC, inactive_MK, m, c, M, C, TM, TC)
        sums += gradient
        products += gradient * (x - mean_1C)
    _store(sums_2PC, tl.sum(sums, 0, keep_dims=True), p, c, P, C, 1, TC)
    product_1C = tl.sum(products, 0, keep_dims=True) * _load(statistics_2C, 1, c, 2, C, 1, TC)
    _store(sums_2PC + P * C, product_1C, p, c, P, C, 1, TC)


@triton.jit
def _backward(
    dy_MC,
    x_MC,
    inactive_MK,
    statistics_2C,
    weight_C,
    sums_2C,
    dx_MC,
    dr_MC,
    M,
    C: constexpr,
    TM: constexpr,
    TC: constexpr,
):
    m, c = _place(C, TC)
    m *= TM
    x = _load(x_MC, m, c, M, C, TM, TC)
    gradient = _load_gradient(dy_MC, inactive_MK, m, c, M, C, TM, TC)
    rstd_1C = _load(statistics_2C, 1, c, 2, C, 1, TC)
    x = (x - _load(statistics_2C, 0, c, 2, C, 1, TC)) * rstd_1C
    mean = (_load(sums_2C, 0, c, 2, C, 1, TC) + x * _load(sums_2C, 1, c, 2, C, 1, TC)) / M
    _store(dx_MC, (gradient - mean) * rstd_1C * _load(weight_C, 0, c, 1, C, 1, TC), m, c, M, C, TM, TC)
    if dr_MC is not None:
        _store(dr_MC, gradient, m, c, M, C, TM, TC)

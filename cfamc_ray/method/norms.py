"""Norms of convolutional layers, and batch norm fused with the operations after it.

Shapes: N images, C/H/W channels/height/width.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from cfamc_ray.config.errors import InputError

GROUP_CHANNELS = 4
"""Channels that share a group norm; every width is a multiple of it."""
Norm = Callable[[int], nn.Module]
"""Builds a norm layer, given the number of channels."""


def group_norm(channels: int) -> nn.Module:
    """Build a group norm of `channels` channels."""
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that `norm_relu` may fuse with the operations after it.

    Attributes:
        fused: `fused_norm.batch_norm_relu`, or None to compute the operations one after another.
    """

    fused: Callable[..., Tensor] | None = None


def norm_relu(norm: nn.Module, x_NCHW: Tensor, residual_NCHW: Tensor | None = None) -> Tensor:
    """``relu(norm(x) + residual)``, by fused kernels if the norm has them, on a GPU, in training and in bfloat16."""
    if isinstance(norm, BatchNorm) and norm.fused and norm.training and _fits(norm, x_NCHW, residual_NCHW):
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        affine = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        return norm.fused(x_NCHW, residual_NCHW, *affine, momentum=norm.momentum, eps=norm.eps)
    y_NCHW = norm(x_NCHW)
    return F.relu(y_NCHW if residual_NCHW is None else y_NCHW + residual_NCHW, inplace=True)


def _fits(norm: BatchNorm, *inputs: Tensor | None) -> bool:
    """Whether the fused kernels support these inputs; for a single position, torch raises the error."""
    return norm.weight.dtype == torch.float32 and all(
        x_NCHW.is_cuda
        and x_NCHW.dtype == torch.bfloat16
        and x_NCHW.is_contiguous(memory_format=torch.channels_last)
        and x_NCHW.numel() > x_NCHW.shape[1]
        for x_NCHW in inputs
        if x_NCHW is not None
    )


@contextmanager
def estimating_norms(network: nn.Module) -> Iterator[None]:
    """Replace the running statistics of batch norms by their means over the passes within, all of which count alike.

    Args:
        network: modules whose batch norms are meant; within, they are in training mode, and afterwards as before.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta, modes = [norm.momentum for norm in norms], [norm.training for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum, mode in zip(norms, momenta, modes, strict=True):
            norm.momentum = momentum
            norm.train(mode)


def use_fused_norm(network: nn.Module, on: bool) -> None:
    """Switch the fused kernels of a network's batch norms on or off; weights and their names do not change.

    Raises:
        InputError: if they are switched on and this machine cannot run them (`missing_for_triton`).
    """
    fused: Callable[..., Tensor] | None = None
    if on:
        if missing := missing_for_triton():
            raise InputError(f"pretraining.fused_norm: true needs {missing}; auto and false do without")
        from cfamc_ray.method.fused_norm import batch_norm_relu  # noqa: PLC0415 (Triton may be absent)

        fused = batch_norm_relu
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.fused = fused


def missing_for_triton() -> str | None:
    """What this machine lacks, apart from a GPU, to run Triton kernels, whose launchers are compiled at the first call.

    Returns:
        Its name, as part of a sentence; None if nothing is missing.
    """
    if find_spec("triton") is None:
        return "the package triton, which comes with torch on Linux"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler for Triton (gcc or clang in PATH, or CC)"
    headers = Path(sysconfig.get_path("include"))
    return None if (headers / "Python.h").exists() else f"Python's headers for Triton ({headers}/Python.h)"

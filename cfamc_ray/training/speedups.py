"""Optimisations of training on a GPU, and when to use them; they change a trial's numbers only by rounding."""

import warnings
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from cfamc_ray.config.errors import InputError, first_line
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import training_flops
from cfamc_ray.method.norms import BatchNorm, missing_for_triton, norm_relu, use_fused_norm

COMPILING_PAYS_FLOPS = 5e16
"""Training FLOPs from which compiling pays: at the paper's width an H100 takes 41 s to compile, and then 217 s for them
instead of 278 s."""
LAUNCHES_DOMINATE_FLOPS = 2e12
"""FLOPs of an update below which launches dominate: launching its 400 kernels takes 4 to 8 ms; at the paper's width an
H100 computes these FLOPs in 12 ms."""
TOLERANCE = 2**-6
"""Largest relative difference of fused kernels from torch's: bfloat16 rounds by 2^-9 at each operation."""


class Speedups(NamedTuple):
    """The resolved values of the keys of `pretraining` that may be `auto`."""

    compile: bool
    cuda_graph: bool
    split_stem: bool
    fused_norm: bool


def speedups(config: TrialConfig, device: torch.device, *, workers: int, autocast: torch.dtype | None) -> Speedups:
    """Resolve the keys of a config for a device.

    Args:
        config: config of the trial.
        device: device of the worker.
        workers: number of workers of the trial.
        autocast: type of the matrix products if it is not that of the weights, else None.

    Raises:
        InputError: if a key is true but the device, the precision or the encoder does not support it.
    """
    chosen, gpu = config.pretraining, device.type == "cuda"
    normed = config.encoder.norm == "batch" and config.encoder.architecture.fuses_norm
    for key, right, needs in (
        ("cuda_graph", gpu, "a GPU"),
        ("cuda_graph", workers == 1, "one worker"),
        ("cuda_graph", config.optimizer.graphed, "optimizer.name: lars"),
        ("split_stem", autocast is not None, "pretraining.precision: bfloat16"),
        ("fused_norm", gpu, "a GPU"),
        ("fused_norm", autocast is not None, "pretraining.precision: bfloat16"),
        ("fused_norm", normed, "a ResNet with encoder.norm: batch"),
    ):
        if getattr(chosen, key) is True and not right:
            raise InputError(f"pretraining.{key}: true needs {needs}; set it to false or auto")
    flops = training_flops(config)
    triton = gpu and not missing_for_triton()
    auto = Speedups(
        compile=triton and flops >= COMPILING_PAYS_FLOPS,
        cuda_graph=gpu
        and workers == 1
        and config.optimizer.graphed
        and flops / config.updates < LAUNCHES_DOMINATE_FLOPS,
        split_stem=gpu and autocast is not None,
        fused_norm=False,  # launched one by one, its operators cost the host more than they save (docs/gpus.md)
    )
    asked = {name: getattr(chosen, name) for name in Speedups._fields}
    resolved = auto._replace(**{name: value for name, value in asked.items() if value != "auto"})
    if resolved.fused_norm and (problem := fused_norm_problem(device)):
        warnings.warn(f"pretraining.fused_norm: {problem}; torch's own kernels are used", stacklevel=2)
        return resolved._replace(fused_norm=False)
    return resolved


def is_of_compiler(error: Exception) -> bool:
    """Whether an error is from torch.compile itself, not from the compiled code."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton"))


@lru_cache
def fused_norm_problem(device: torch.device) -> str:
    """Difference of the fused kernels from torch's on a device, for a small batch; empty if they agree."""
    norm = BatchNorm(64).to(device)
    shape = (4, 64, 8, 8)
    x_NCHW, residual_NCHW, gradient_NCHW = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        .to(device, torch.bfloat16)
        .contiguous(memory_format=torch.channels_last)
        for seed in range(3)
    )

    def passes(*, fused: bool) -> list[Tensor]:
        use_fused_norm(norm, fused)
        norm.reset_running_stats()
        inputs = [x_NCHW.clone().requires_grad_(), residual_NCHW.clone().requires_grad_()]
        y_NCHW = norm_relu(norm, *inputs)
        gradients = torch.autograd.grad(y_NCHW, [*inputs, *norm.parameters()], gradient_NCHW)
        return [each.detach().double() for each in (y_NCHW, *gradients, *norm.buffers())]

    try:
        theirs, ours = passes(fused=False), passes(fused=True)
    except Exception as error:  # a compiler or a driver may raise any exception
        return f"{type(error).__name__}: {first_line(error)}"
    worst = max(float((one - other).norm() / other.norm()) for one, other in zip(ours, theirs, strict=True))
    return "" if worst <= TOLERANCE else f"the kernels differ from torch's by {worst:.2g} of the values"

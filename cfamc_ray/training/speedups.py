"""What makes training faster on a GPU, and where it pays; a trial's numbers change no more than by rounding."""

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
"""Of a trial's training. At the paper's width an H100 takes about 5 minutes for so many, and one to compile."""
LAUNCHES_DOMINATE_FLOPS = 2e12
"""Of an update. To launch its 400 kernels takes 4 to 8 ms; at the paper's width an H100 computes 12 ms on so many."""
TOLERANCE = 2**-6
"""Of fused kernels beside torch's, relative: bfloat16 rounds by 2^-9 at each operation."""


class Speedups(NamedTuple):
    """Which keys of `pretraining` that `auto` can stand in are on."""

    compile: bool
    cuda_graph: bool
    split_stem: bool
    fused_norm: bool


def speedups(config: TrialConfig, device: torch.device, *, workers: int, autocast: torch.dtype | None) -> Speedups:
    """What a config's keys come to on a device.

    Args:
        config: of the trial.
        device: of the worker.
        workers: of the trial.
        autocast: type of the matrix products, where it is not the weights'.

    Raises:
        InputError: where the config asks for what the device, the precision or the encoder cannot do.
    """
    chosen, gpu = config.pretraining, device.type == "cuda"
    normed = config.encoder.norm == "batch" and config.encoder.architecture.fuses_norm
    for key, right, needs in (
        ("cuda_graph", gpu, "a GPU"),
        ("cuda_graph", workers == 1, "one worker"),
        ("split_stem", autocast is not None, "pretraining.precision: bfloat16"),
        ("fused_norm", gpu, "a GPU"),
        ("fused_norm", autocast is not None, "pretraining.precision: bfloat16"),
        ("fused_norm", normed, "a ResNet with encoder.norm: batch"),
    ):
        if getattr(chosen, key) is True and not right:
            raise InputError(f"pretraining.{key}: true needs {needs}; false or auto would be right here")
    flops = training_flops(config)
    triton = gpu and not missing_for_triton()
    auto = Speedups(
        compile=triton and flops >= COMPILING_PAYS_FLOPS,
        cuda_graph=gpu and workers == 1 and flops / config.updates < LAUNCHES_DOMINATE_FLOPS,
        split_stem=gpu and autocast is not None,
        fused_norm=triton and normed and autocast is not None,
    )
    asked = {name: getattr(chosen, name) for name in Speedups._fields}
    found = auto._replace(**{name: value for name, value in asked.items() if value != "auto"})
    if found.fused_norm and chosen.fused_norm == "auto" and (problem := fused_norm_problem(device)):
        warnings.warn(f"pretraining.fused_norm: {problem}; torch's own kernels are used", stacklevel=2)
        return found._replace(fused_norm=False)
    return found


def is_of_compiler(error: Exception) -> bool:
    """Whether torch.compile failed, and not what it compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton"))


@lru_cache
def fused_norm_problem(device: torch.device) -> str:
    """What the fused kernels do otherwise than torch's on a device, on a small batch; empty where they agree."""
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
    except Exception as error:  # whatever a compiler or a driver may raise
        return f"{type(error).__name__}: {first_line(error)}"
    worst = max(float((one - other).norm() / other.norm()) for one, other in zip(ours, theirs, strict=True))
    return "" if worst <= TOLERANCE else f"the kernels differ from torch's by {worst:.2g} of the values"

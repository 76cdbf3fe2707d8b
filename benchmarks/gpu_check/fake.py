"""A CUDA device `cuda:0` without memory, driver or kernels: all that is patched to have one stands here.

torch's FakeTensorMode gives every tensor a shape, a type, strides and a device, and runs the shape functions of the
kernels instead of the kernels. So devices that do not fit together raise as on a GPU. What it lacks without a driver is
patched. What cannot be seen this way: wrong numbers, indices out of range, waits inside a library's call, too little
memory, streams, graphs, collectives, and what the host reads too early after a copy that it does not wait for.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import cfamc_ray.training.trainer
from benchmarks.gpu_check.backward import PythonEngine
from benchmarks.gpu_check.recorder import Recorder
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.evaluation import fitting
from cfamc_ray.method.encoder import SelfSupervisedEncoder

DEVICE = torch.device("cuda", 0)
MEMORY_BYTES = 80 * 2**30
WITHOUT_A_DRIVER = ("pretraining.compile", "pretraining.cuda_graph", "pretraining.fused_norm")
"""Keys of what needs one; a trial on the fake device leaves it out."""


def eager(config: TrialConfig) -> TrialConfig:
    """A trial with all that needs a driver switched off."""
    return config.with_values(dict.fromkeys(WITHOUT_A_DRIVER, False))


@contextmanager
def fake_cuda(*, free_bytes: int = MEMORY_BYTES) -> Iterator[Recorder]:
    """Meanwhile `DEVICE` exists, and every tensor is a fake one.

    Args:
        free_bytes: that the device says it has.

    Returns:
        what records all that is done on the device.
    """
    engine = PythonEngine()
    recorder = Recorder(engine)
    select_backend = torch._C._select_conv_backend

    def select_conv_backend(*arguments: Any, **settings: Any) -> Any:
        """Without a GPU torch thinks that cuDNN has no bfloat16, and the layout of results would be another."""
        images = arguments[0] if arguments else settings["input"]
        if images.device.type == "cuda" and images.dtype == torch.bfloat16:
            return torch._C._ConvBackend.Cudnn  # type: ignore[attr-defined]
        return select_backend(*arguments, **settings)

    def encoder(config: TrialConfig, *, autocast: torch.dtype | None = None) -> SelfSupervisedEncoder:
        """Fake weights need not be drawn, and cannot be copied from drawn ones."""
        return SelfSupervisedEncoder(config.encoder, autocast=autocast)

    cuda: dict[str, Any] = {
        "is_available": lambda: False,
        "is_bf16_supported": lambda *_, **__: True,
        "get_device_name": lambda *_: "no GPU at all",
        "mem_get_info": lambda *_: (free_bytes, MEMORY_BYTES),
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "max_memory_reserved": lambda *_: 0,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: recorder.host_waits("torch.cuda.synchronize", "the host waits for all work"),
    }
    patches: list[tuple[Any, str, Any]] = [
        *((torch.cuda, name, instead) for name, instead in cuda.items()),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch._C, "_select_conv_backend", select_conv_backend),
        (torch._C, "_current_graph_task_id", lambda: engine.task),
        (torch.autograd, "backward", engine.backward),
        (torch.autograd, "grad", engine.grad),
        (Tensor, "pin_memory", lambda tensor, *_: recorder.pin(tensor.clone())),
        (nn.Module, "_apply", _apply),
        (cfamc_ray.training.trainer, "initial_encoder", encoder),
        (fitting, "stratified_order", lambda labels_N, seed: torch.arange(len(labels_N))),  # labels have no values
    ]
    with ExitStack() as stack:
        for where, name, instead in patches:
            stack.enter_context(mock.patch.object(where, name, instead))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(recorder)
        yield recorder


def _apply(module: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters: fake ones cannot be swapped in place."""
    for child in module.children() if recurse else ():
        _apply(child, change)
    with torch.no_grad():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(change(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
    return module

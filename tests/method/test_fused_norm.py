import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.method import norms
from cfamc_ray.method.backbones import build_backbone
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.norms import BatchNorm, missing_for_triton, norm_relu, use_fused_norm
from cfamc_ray.method.resnet import ResNet

NEEDS_TRITON = pytest.mark.skipif(missing_for_triton() is not None, reason=f"needs {missing_for_triton()}")
ROOT = Path(__file__).parents[2]
CUDNN = torch._C._ConvBackend.Cudnn  # type: ignore[attr-defined]
CASES = Path(__file__).with_name("fused_norm_cases.py")


@NEEDS_TRITON
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "interpret",
    [
        pytest.param("1", id="interpreter"),
        pytest.param("0", id="gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
def test_the_kernels_compute_what_torch_does(interpret: str) -> None:
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


class Launches:
    """Stands in for a kernel: notes what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.calls: list[tuple[tuple[Any, ...], dict[str, int]]] = []

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        assert 0 < grid[0] < 2**31
        return lambda *arguments, **constants: self.calls.append((arguments, constants))


def compiled_for_an_h100(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, int]) -> Any:
    """What Triton compiles when a kernel is launched with these."""
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415 (Triton may be absent)
    from triton.compiler import ASTSource, compile  # noqa: PLC0415

    types = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.uint8: "*u8", float: "fp32", int: "i32"}
    names = kernel.arg_names
    fixed = {name: constants[name] for name in names if name in constants}
    fixed |= {name: value for name, value in zip(names, arguments, strict=False) if value is None}
    given = dict(zip(names, arguments, strict=False))
    signature = {
        name: "constexpr" if name in fixed else types[getattr(given[name], "dtype", type(given[name]))]
        for name in names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, value in enumerate(arguments)
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)
    }
    source = ASTSource(kernel, signature, fixed, aligned)
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": constants["num_warps"]})


def resources(cubin: bytes, path: Path) -> dict[str, int]:
    import triton  # noqa: PLC0415 (may be absent)

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip(f"needs cuobjdump, which this Triton has not: {tool}")
    path.write_bytes(cubin)
    shown = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", shown)}


@NEEDS_TRITON
@pytest.mark.slow
@pytest.mark.parametrize(
    ("C", "side", "residual"),
    [(64, 32, True), (64, 32, False), (128, 16, True), (256, 8, True), (512, 4, True), (12, 32, True)],
)
def test_kernels_for_an_h100_spill_no_registers_and_load_16_bytes_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, C: int, side: int, residual: bool
) -> None:
    from cfamc_ray.method import fused_norm  # noqa: PLC0415 (Triton may be absent)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = ["_moments", "_merge", "_forward", "_sums", "_backward"]
    kernels = {name: Launches(getattr(fused_norm, name)) for name in names}
    for name, launches in kernels.items():
        monkeypatch.setattr(fused_norm, name, launches)
    x_NCHW = torch.empty(1600, side, side, C, dtype=torch.bfloat16).permute(0, 3, 1, 2)  # never touched, so no memory
    r_NCHW, channels_C = x_NCHW if residual else None, torch.ones(C)
    fused_norm.batch_norm_relu(
        *(x_NCHW, r_NCHW, channels_C, channels_C, channels_C.clone(), channels_C.clone()), momentum=0.1, eps=1e-5
    )
    bits_MK = torch.empty(1, 1, dtype=torch.uint8)
    fused_norm._normalize_backward(x_NCHW, x_NCHW, bits_MK, channels_C, torch.empty(2, C), residual)
    for name, launches in kernels.items():
        ((arguments, constants),) = launches.calls
        compiled = compiled_for_an_h100(launches.kernel, arguments, constants)
        used = resources(compiled.asm["cubin"], tmp_path / "cubin")
        assert used["STACK"] == used["LOCAL"] == 0, name
        # A multiprocessor has 65,536 registers: with 64 a thread it runs four programs of 256 threads.
        assert used["REG"] <= (128 if name == "_merge" else 64), name
        if C >= 64 and name in ("_forward", "_backward"):
            assert compiled.metadata.shared == 0, f"{name}: threads exchange values"
            assert "ld.global.v4.b32" in compiled.asm["ptx"], name
            assert "st.global.v4.b32" in compiled.asm["ptx"], name


def as_written(block: Any) -> Callable[[Tensor], Tensor]:
    return lambda x_NCHW: F.relu(block.residual(x_NCHW) + block.shortcut(x_NCHW), inplace=True)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["small", "large"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("training", [True, False])
def test_without_the_kernels_blocks_compute_what_their_modules_say(
    architecture: str, stem: str, norm: str, training: bool
) -> None:
    config = EncoderConfig.model_validate({"architecture": architecture, "stem": stem, "norm": norm, "width": 4})
    images_NCHW = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for plain in (False, True):
        torch.manual_seed(0)
        network = build_backbone(config).train(training)
        assert isinstance(network, ResNet)
        for block in network.stages if plain else []:
            if hasattr(block, "residual"):
                block.forward = as_written(block)
        x_NCHW = network.stem(images_NCHW)
        features_NF = network.stages(x_NCHW).mean((-2, -1)) if plain else network.after_stem(x_NCHW)
        features_NF.square().sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        results.append([features_NF.detach(), *gradients, *network.buffers()])
    for value, expected in zip(*results, strict=True):
        assert torch.equal(value, expected)


def test_the_kernels_change_no_name_of_a_weight_and_no_result_on_a_cpu() -> None:
    if missing := missing_for_triton():
        pytest.skip(f"needs {missing}")
    config, images_NCHW = EncoderConfig(width=4), torch.rand(4, 3, 8, 8)
    torch.manual_seed(0)
    network = build_backbone(config)
    names, expected_NF = list(network.state_dict()), network(images_NCHW)
    use_fused_norm(network, True)
    assert list(network.state_dict()) == names
    assert torch.equal(network(images_NCHW), expected_NF)
    network.load_state_dict(ResNet("resnet18", 4, nn.BatchNorm2d).state_dict())


class Counts(TorchDispatchMode):
    """How often each operator runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._opname] = self.calls.get(func._opname, 0) + 1
        return func(*args, **(kwargs or {}))


@NEEDS_TRITON
@pytest.mark.parametrize(("architecture", "fused", "plain"), [("resnet18", 17, 3), ("resnet50", 49, 4)])
def test_on_a_gpu_every_norm_before_a_relu_is_fused(
    monkeypatch: pytest.MonkeyPatch, architecture: str, fused: int, plain: int
) -> None:
    # What torch says where there is a GPU; the backend decides the layout of a convolution's output.
    monkeypatch.setattr("torch._C._select_conv_backend", lambda *_, **__: CUDNN)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    config = EncoderConfig.model_validate({"architecture": architecture, "width": 4})
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        encoder = SelfSupervisedEncoder(config, autocast=torch.bfloat16)
        images_NCHW = torch.empty(8, 3, 32, 32)
        use_fused_norm(encoder, True)
        with Counts() as counts:
            encoder(images_NCHW)
        assert counts.calls["batch_statistics"] == counts.calls["normalize_relu"] == fused
        heads = 2
        assert sum(count for name, count in counts.calls.items() if name.endswith("batch_norm")) == plain + heads
        for off in (encoder.eval, lambda: use_fused_norm(encoder.train(), False)):
            off()
            with Counts() as counts:
                encoder(images_NCHW)
            assert "normalize_relu" not in counts.calls


@pytest.mark.parametrize(
    ("change", "takes"),
    [
        ({}, True),
        ({"residual": Tensor.float}, False),
        ({"residual": lambda x: x.clone(memory_format=torch.contiguous_format)}, False),
        ({"dtype": torch.float32}, False),
        ({"device": "cpu"}, False),
        ({"memory_format": torch.contiguous_format}, False),
        ({"weights": torch.bfloat16}, False),
        ({"size": (1, 8, 1, 1)}, False),
        ({"training": False}, False),
        ({"norm": nn.BatchNorm2d}, False),
        ({"norm": nn.SyncBatchNorm}, False),
    ],
)
def test_which_norms_are_fused(change: dict[str, Any], takes: bool) -> None:
    calls = []

    def fused(x_NCHW: Tensor, *_: Any, **__: Any) -> Tensor:
        calls.append(x_NCHW)
        return x_NCHW

    device, dtype = change.get("device", "cuda"), change.get("dtype", torch.bfloat16)
    with FakeTensorMode(), torch.device(device):
        x_NCHW = torch.empty(change.get("size", (2, 8, 4, 4)), dtype=dtype)
        x_NCHW = x_NCHW.to(memory_format=change.get("memory_format", torch.channels_last))
        r_NCHW = change.get("residual", lambda x: x)(x_NCHW)
        norm = change.get("norm", BatchNorm)(8, dtype=change.get("weights", torch.float32))
        norm.train(change.get("training", True))
        norm.fused = fused
        try:
            norm_relu(norm, x_NCHW, r_NCHW)
        except (ValueError, RuntimeError):  # of torch: one position, or processes that are not there
            assert not takes
    assert bool(calls) == takes


def test_what_triton_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = build_backbone(EncoderConfig(width=4))
    monkeypatch.delenv("CC", raising=False)
    for place, name, nothing, missing in (
        (norms, "find_spec", None, "the package triton"),
        (shutil, "which", None, "a C compiler"),
        (sysconfig, "get_path", str(tmp_path), "Python.h"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(norms, "find_spec", lambda _: object())
            patch.setattr(shutil, "which", lambda _: "/usr/bin/gcc")
            patch.setattr(place, name, lambda _, nothing=nothing: nothing)
            with pytest.raises(InputError, match=f"pretraining.fused_norm: true needs .*{missing}"):
                use_fused_norm(network, True)
            use_fused_norm(network, False)
    assert all(module.fused is None for module in network.modules() if isinstance(module, BatchNorm))


def test_everything_imports_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import cfamc_ray.training.trial
print(cfamc_ray.method.norms.missing_for_triton())
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("the package triton")

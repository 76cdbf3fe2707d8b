"""Every operation on the device with its place and its cost; where the host waits, why; what a GPU's kernel refuses."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import cfamc_ray
from benchmarks.gpu_check.backward import PythonEngine
from cfamc_ray.method.phases import Phase

PHASES = get_args(Phase)
PACKAGE = str(Path(cfamc_ray.__file__).parent) + "/"

aten = torch.ops.aten
READS_A_VALUE = {"_local_scalar_dense", "is_nonzero", "equal", "_linalg_check_errors"}
WAITS_FOR_A_SIZE = {"nonzero", "masked_select"}
WAITS_INSIDE = {"_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq"}
COPIES = {"_to_copy", "copy_"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
ONLY_WRITE = {"copy_", "fill_", "zero_"}
"""Do not read what they write to."""
READ_TWICE = {
    *("native_batch_norm", "native_batch_norm_backward", "cudnn_batch_norm", "cudnn_batch_norm_backward"),
    *("native_group_norm", "native_group_norm_backward"),
}
"""Need a sum over all of their input before they can compute the first number of their output."""


class Loop(NamedTuple):
    """A loop in which the host must not wait."""

    name: str
    over: str
    """A word of what the `for` runs over."""
    callees: bool = True
    """Whether waits in what it calls count, in other files."""


LOOPS = {
    "training/trial.py": Loop("minibatches", "minibatches_per_epoch"),
    "evaluation/attacks.py": Loop("attack's steps", "steps"),
    "evaluation/margins.py": Loop("attack's steps", "steps"),
    # The attack on a minibatch may wait between its starts.
    "evaluation/probe.py": Loop("head's minibatches", "batch_images", callees=False),
    "evaluation/finetuning.py": Loop("minibatches of fine-tuning", "tensor_split", callees=False),
}
"""By file of the package."""


class Operation(NamedTuple):
    """What was done on the device."""

    name: str
    at: str
    """File and line of the package."""
    loop: str
    """Of `LOOPS`, in which it was; empty outside."""
    wait: str
    """Why the host waits for it; empty where it does not."""
    phase: str
    """Of `cfamc_ray.method.phases`; empty outside."""
    minibatch: int
    """Of the epoch, from 0."""
    read: int = 0
    """Bytes of the device's memory."""
    written: int = 0
    flops: int = 0
    """Of matrix products, two for each multiplication and addition."""
    dtype: torch.dtype = torch.float32
    """Of its first tensor."""


class Recorder(TorchDispatchMode):
    """Sees every operation of fake tensors before the fake mode does, and answers for values that nobody computed.

    Every number that the host reads is 1, every truth true, and every mask all true.

    Args:
        engine: of backward passes.

    Attributes:
        operations: on the device, views left out.
        minibatch: of the epoch, from 0; the caller counts.
    """

    def __init__(self, engine: PythonEngine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.minibatch = 0
        self._engine = engine
        self._phases: list[str] = []
        self._pinned: dict[int, Tensor] = {}

    def pin(self, tensor: Tensor) -> Tensor:
        """Take a CPU tensor for pinned from now on."""
        self._pinned[_storage(tensor)] = tensor  # kept, or else another tensor could have its address
        return tensor

    def host_waits(self, name: str, why: str) -> None:
        """Note that the host waits here."""
        self.operations.append(self._operation(name, why))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note it."""
        kwargs = kwargs or {}
        if func.namespace == "prim":  # an attribute is asked for
            return func(*args, **kwargs)
        if func.namespace == "profiler":
            self._follow_phase(str(func), args)
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        wait = self._wait(name, tensors, args, kwargs)
        if name in READS_A_VALUE:
            if wait:
                self.host_waits(str(func), wait)
            return None if name == "_linalg_check_errors" else _one(tensors[0])
        _refuse(name, args)
        if name in INDEXES:
            args = (args[0], _without_masks(args[1]), *args[2:])
        if name == "convolution_backward" and self._engine.needed:
            mask = [asked and needed for asked, needed in zip(args[10], self._engine.needed, strict=True)]
            args = (*args[:10], mask)
        result = self._result(func, name, tensors, args, kwargs)
        outs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        _refuse_generator([*args, *kwargs.values()], outs)
        if kwargs.get("pin_memory"):
            self.pin(result)
        if any(_on_gpu(tensor) for tensor in (*tensors, *outs)):
            wait = wait or self._copy_wait(name, tensors, outs, args, kwargs)
            self._note(func, name, tensors, outs, args, kwargs, result, wait)
        return result

    def _follow_phase(self, name: str, args: Any) -> None:
        if "enter" in name:
            self._phases.append(args[0])
        elif self._phases:
            self._phases.pop()

    @staticmethod
    def _wait(name: str, tensors: list[Tensor], args: Any, kwargs: Any) -> str:
        """Why the host waits, as far as that can be told beforehand."""
        if not tensors or not _on_gpu(tensors[0]):
            return ""
        if name in READS_A_VALUE:
            return "the host reads a value"
        if name in WAITS_FOR_A_SIZE:
            return "the host waits for the size of the result"
        if name in WAITS_INSIDE:
            return "the library waits"
        if name in INDEXES:
            indices = [index for index in args[1] if index is not None]
            if any(not _on_gpu(index) and index.dim() for index in indices):
                return "an index on the CPU is copied"
            fills = name != "index" and args[2].numel() == 1 and not _on_gpu(args[2])  # torch fills under the mask
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
                return "the host waits for the size of an index of truth values"
        return ""

    def _copy_wait(self, name: str, tensors: list[Tensor], outs: list[Tensor], args: Any, kwargs: Any) -> str:
        if name not in COPIES:
            return ""
        source, target = (tensors[0], outs[0]) if name == "_to_copy" else (tensors[1], tensors[0])
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        pinned = self._pinned.keys() & {_storage(source), _storage(target)}
        if _on_gpu(source) and not _on_gpu(target):  # `to` makes pinned memory itself
            return "" if asynchronous and (pinned or name == "_to_copy") else "a copy to the host"
        if _on_gpu(target) and not _on_gpu(source) and not (asynchronous and pinned):
            return "a copy from memory that is not pinned, or without non_blocking"
        return ""

    @staticmethod
    def _result(func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        if name == "nonzero":
            return tensors[0].new_empty(tensors[0].numel(), tensors[0].dim(), dtype=torch.int64)
        if name == "masked_select":
            return tensors[0].new_empty(tensors[0].numel())
        if name == "_fused_sgd_":  # works in place and has no shape function
            return None
        return func(*args, **kwargs)

    def _note(
        self,
        func: Any,
        name: str,
        tensors: list[Tensor],
        outs: list[Tensor],
        args: Any,
        kwargs: Any,
        result: Any,
        wait: str,
    ) -> None:
        before = {_storage(tensor) for tensor in tensors}
        changed = [*_changed(func, args, kwargs), *(out for out in outs if _storage(out) not in before)]
        if name in NO_KERNEL or not changed:  # a view
            return
        read = tensors[1:] if name in ONLY_WRITE else tensors
        formula = flop_registry.get(func.overloadpacket)
        self.operations.append(
            self._operation(
                str(func).removeprefix("aten."),
                wait,
                read=_bytes(read) * (2 if name in READ_TWICE else 1),
                written=_bytes(changed),
                flops=formula(*args, **kwargs, out_val=result) if formula else 0,
                dtype=(tensors or outs)[0].dtype,
            )
        )

    def _operation(self, name: str, wait: str, **cost: Any) -> Operation:
        at, loop = _place()
        phase = next((each for each in reversed(self._phases) if each in PHASES), "")  # torch marks phases of its own
        return Operation(name, at, loop, wait, phase, self.minibatch, **cost)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _one(tensor: Tensor) -> bool | int | float:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _without_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Masks as the whole numbers that they stand for, were all of them true."""
    numbers: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            numbers.append(index)
        else:
            numbers += [index.new_empty(index.numel(), dtype=torch.int64)] * index.dim()
    return numbers


def _changed(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Tensors that an operation writes to in place."""
    declared = zip(func._schema.arguments, args, strict=False)
    given = [*declared, *((each, kwargs[each.name]) for each in func._schema.arguments if each.name in kwargs)]
    written = [value for each, value in given if each.alias_info is not None and each.alias_info.is_write]
    return [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]


def _bytes(tensors: list[Tensor]) -> int:
    """Of the device's memory behind some tensors, each counted once, and what is broadcast as it lies there."""
    distinct = {id(tensor): tensor for tensor in tensors if _on_gpu(tensor)}
    return sum(_numbers(tensor) * tensor.element_size() for tensor in distinct.values())


def _numbers(tensor: Tensor) -> int:
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or not size else 1
    return count


def _refuse(name: str, args: Any) -> None:
    """Raise as the kernels of a GPU do where the shape functions are silent.

    Raises:
        RuntimeError: for products of whole numbers or of different types, matrices of short floats that are to be
            factorised, and a fused SGD whose parameters, gradients and momenta have different layouts.
    """
    tensors = [each for each in args if isinstance(each, Tensor)]
    if not any(map(_on_gpu, tree_leaves([each for each in tree_leaves(args) if isinstance(each, Tensor)]))):
        return
    if name in PRODUCTS:
        types = {each.dtype for each in tensors}
        if len(types) > 1 or not next(iter(types)).is_floating_point:
            raise RuntimeError(f"{name} on a GPU refuses {', '.join(sorted(map(str, types)))}")
    if "linalg" in name and any(each.dtype in (torch.bfloat16, torch.float16) for each in tensors):
        raise RuntimeError(f"{name} on a GPU refuses short floats")
    if name == "_fused_sgd_":
        for one, *others in zip(*(part for part in args[:3] if part), strict=True):
            if any((o.shape, o.stride(), o.dtype) != (one.shape, one.stride(), one.dtype) for o in others):
                raise RuntimeError(f"fused SGD refuses a parameter {tuple(one.shape)} whose gradient lies otherwise")


def _refuse_generator(arguments: list[Any], outs: list[Tensor]) -> None:
    """Raise where random numbers are drawn on another device than the generator's."""
    for generator in arguments:
        if isinstance(generator, torch.Generator) and any(out.device.type != generator.device.type for out in outs):
            raise RuntimeError(f"a generator of {generator.device} cannot draw on {outs[0].device}")


def _place() -> tuple[str, str]:
    """File and line of the package's innermost frame, and the innermost of `LOOPS` around it."""
    at = ""
    for file, line in _frames():
        at = at or f"{file}:{line}"
        loop = LOOPS.get(file)
        if loop and any(line in lines for lines in _loop_lines(file)) and (loop.callees or at.startswith(f"{file}:")):
            return at, loop.name
    return at, ""


def _frames() -> Iterator[tuple[str, int]]:
    frame = sys._getframe(1)
    while frame:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            yield path[len(PACKAGE) :], frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]


@cache
def _loop_lines(file: str) -> list[range]:
    """Lines of a file's loop."""
    tree = ast.parse(Path(PACKAGE, file).read_text())
    lines = [
        range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.For) and LOOPS[file].over in ast.unparse(node.iter)
    ]
    assert lines, f"{file} has no for loop over {LOOPS[file].over}: correct LOOPS"
    return lines

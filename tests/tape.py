"""A CUDA graph without a GPU: the operations of a function, done again on the same memory with the same numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records what it sees; a replay calls no Python of the function, as a graph does not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Do it again: results go where they were the first time."""
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                again = tree_leaves(func(*args, **kwargs))
                for before, now in zip(tree_leaves(result), again, strict=True):
                    if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                        before.copy_(now)


def record_on_tape(function: Callable[[], None]) -> Callable[[], None]:
    """As `cuda_graph.record`, but for the CPU."""
    with Tape() as tape:
        function()
    replay: Callable[[], None] = tape.replay
    return replay

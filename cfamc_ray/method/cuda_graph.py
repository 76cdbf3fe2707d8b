"""An update of the weights as one CUDA graph, for small encoders, whose kernels take less time than launching them.

A graph runs the same kernels on the same memory again, and no Python. So an update's inputs are copied into fixed
buffers, its learning rate is read from a tensor, and all other state must be changed in place.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cfamc_ray.config.errors import first_line
from cfamc_ray.method.learner import Update
from cfamc_ray.method.optimizer import Lars
from cfamc_ray.method.phases import timing

WARM_UPS = 3
"""Number of updates before the capture, which choose kernels and allocate workspaces, as torch recommends."""
TOLERANCE = 0.05
"""Largest difference between a graph's change of the state and that of the same eager update, relative to the latter:
the order of sums differs from run to run, and with it the sign of tiny gradients."""


class GraphedUpdate:
    """Runs updates eagerly until `capture` has succeeded, then as a graph.

    Args:
        optimizer: optimizer of the update.
        state: all tensors that an update changes in place: weights, buffers, momenta, sums of observed values.
    """

    def __init__(self, optimizer: Lars, state: Sequence[Tensor]) -> None:
        self.optimizer, self.state = optimizer, state
        self._buffers: list[Tensor] | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run an update.

        Args:
            update: the captured function; if it is another one of the same form, the captured one still runs.
            inputs: crops, perturbation and further inputs of the update, with the shapes of the capture.

        Returns:
            The moved perturbation, which the next call overwrites, and the loss.
        """
        if self._replay is None or timing():
            return update(*inputs)
        self._load(inputs)
        self._replay()
        return self._delta, self._loss.clone()

    def capture(self, update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Capture an update, compare it with an eager one, and restore the state.

        If torch cannot capture it, or the two differ, a warning is issued and updates stay eager.

        Returns:
            The unchanged perturbation, and the loss.
        """
        if self._buffers is not None:
            return inputs[1], inputs[1].new_zeros(())  # another replay, which is captured already
        self._buffers = [value.clone() for value in inputs]
        # On a GPU, fused SGD reads a float32 rate, whatever the type of the weights.
        rate_type = torch.float32 if inputs[0].device.type == "cuda" else inputs[0].dtype
        self._rate = inputs[0].new_empty((), dtype=rate_type)
        with unchanged(self.state) as before:
            for _ in range(WARM_UPS):
                put(self.state, before)
                with _side_stream(inputs[0].device):
                    _, loss = update(*inputs)
            eager = [tensor.clone() for tensor in self.state]
            put(self.state, before)
            try:
                with self.optimizer.rate_from(self._rate):
                    replay = record(lambda: self._run(update))
                put(self.state, before)
                self._load(inputs)
                replay()
                problem = self._difference(before, eager, loss)
            except RuntimeError as error:
                problem = first_line(error)
        if problem:
            warnings.warn(f"pretraining.cuda_graph: {problem}; updates are launched one by one", stacklevel=2)
        else:
            self._replay = replay
        return inputs[1], loss

    def _run(self, update: Update) -> None:
        assert self._buffers is not None
        delta, self._loss = update(*self._buffers)
        self._delta = self._buffers[1].copy_(delta)

    def _load(self, inputs: Sequence[Tensor]) -> None:
        assert self._buffers is not None
        for buffer, value in zip(self._buffers, inputs, strict=True):
            if buffer is not value:
                buffer.copy_(value)
        self._rate.fill_(self.optimizer.param_groups[0]["lr"])

    def _difference(self, before: Sequence[Tensor], eager: Sequence[Tensor], loss: Tensor) -> str:
        """Description of how the graph differs from the eager update; empty if it does not."""
        if not torch.isclose(self._loss, loss, rtol=1e-2):
            return f"the graph's loss is {self._loss.item()} instead of {loss.item()}"
        change, error = (
            sum(float((one.double() - other.double()).square().sum()) for one, other in zip(eager, others, strict=True))
            for others in (before, self.state)
        )
        return "" if error <= TOLERANCE**2 * change else "the graph changes the weights differently"


def record(function: Callable[[], None]) -> Callable[[], None]:
    """Capture the kernels that a function launches, without running them; return a function that launches them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        function()
    return graph.replay


@contextmanager
def unchanged(state: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield copies of some tensors, and restore their values at the end."""
    before = [tensor.detach().clone() for tensor in state]
    try:
        yield before
    finally:
        put(state, before)


@torch.no_grad()
def put(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors."""
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run on another stream than the default one, as updates before a capture must."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)

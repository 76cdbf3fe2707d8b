"""Backward passes walked in Python: torch's own nodes without its engine, which would ask the driver for a GPU.

The engine's rules are kept: a node runs once all nodes that feed it have run; gradients that meet are added, and have
the shape and the type of what they are gradients of; where only some tensors' gradients are asked for, nodes on no way
to them do not run. Not supported: hooks on tensors and nodes, `create_graph`, nested passes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Node = Any
"""`torch.autograd.graph.Node`; most of what is needed here is not declared by it."""
Gradients = list[Tensor | None]


class PythonEngine:
    """What `torch.autograd.backward` and `torch.autograd.grad` call, one pass at a time.

    Attributes:
        task: number of the pass, as `torch._C._current_graph_task_id` has it (-1: none is under way).
        needed: for each edge of the node that runs, whether its gradient is needed.
    """

    def __init__(self) -> None:
        self.task = -1
        self.needed: tuple[bool, ...] = ()
        self._passes = 0

    def backward(self, tensors: Tensor | Sequence[Tensor], grad_tensors: Any = None, *_: Any, **__: Any) -> None:
        """Add to the `grad` of all leaves, as `torch.autograd.backward` does."""
        self._run(_several(tensors), _several(grad_tensors), None)

    def grad(
        self, outputs: Any, inputs: Any, grad_outputs: Any = None, *_: Any, **__: Any
    ) -> tuple[Tensor | None, ...]:
        """The gradients of some tensors alone, as `torch.autograd.grad` returns them."""
        return tuple(self._run(_several(outputs), _several(grad_outputs), _several(inputs)))

    @torch.no_grad()
    def _run(self, roots: list[Tensor], gradients: Gradients, inputs: list[Tensor] | None) -> Gradients:
        self._passes += 1
        self.task = self._passes
        try:
            edges = [torch.autograd.graph.get_gradient_edge(tensor) for tensor in inputs or []]
            graph = _Graph([root.grad_fn for root in roots], None if inputs is None else {edge.node for edge in edges})
            for root, gradient in zip(roots, gradients or [None] * len(roots), strict=True):
                graph.give(root.grad_fn, root.output_nr, torch.ones_like(root) if gradient is None else gradient)
            caught: Gradients = [None] * len(edges)
            while graph.ready:
                node = graph.ready.pop()
                incoming = graph.arrived.pop(node, [])
                for place, edge in enumerate(edges):
                    if incoming and edge.node is node:
                        caught[place] = incoming[edge.output_nr]
                if incoming and inputs is None and hasattr(node, "variable"):
                    _accumulate(node.variable, incoming[0])
                self.needed = tuple(following in graph.nodes for following, _ in node.next_functions)
                nothing: Gradients = [None] * len(self.needed)
                graph.pass_on(node, _call(node, incoming) if incoming and any(self.needed) else nothing)
            return caught
        finally:
            self.task, self.needed = -1, ()


class _Graph:
    """The nodes of a pass, and what has arrived at them.

    Args:
        roots: where it begins.
        targets: only nodes on a way to these take part; None: all do.
    """

    def __init__(self, roots: list[Node], targets: set[Node] | None) -> None:
        feeds: dict[Node, list[Node]] = {root: [] for root in roots}
        found = list(feeds)
        for node in found:  # grows meanwhile
            for following, _ in node.next_functions:
                if following is not None:
                    if following not in feeds:
                        feeds[following] = []
                        found.append(following)
                    feeds[following].append(node)
        self.nodes = set(found) if targets is None else _all_that_lead_to(targets, feeds)
        self.waits_for = Counter({node: sum(one in self.nodes for one in feeds[node]) for node in self.nodes})
        self.ready = [node for node in found if node in self.nodes and not self.waits_for[node]]
        self.arrived: dict[Node, Gradients] = {}

    def give(self, node: Node, number: int, gradient: Tensor) -> None:
        """Add to the gradient of a node's output."""
        expected = node._input_metadata[number]
        if gradient.device != expected.device:
            raise RuntimeError(f"{node.name()}: a gradient on {gradient.device} of a value on {expected.device}")
        if gradient.shape != torch.Size(expected.shape):
            gradient = gradient.sum_to_size(expected.shape)
        gradient = gradient.to(expected.dtype)
        slots = self.arrived.setdefault(node, [None] * len(node._input_metadata))
        before = slots[number]
        slots[number] = gradient if before is None else before + gradient

    def pass_on(self, node: Node, gradients: Gradients) -> None:
        """Give what a node has made to those that follow it."""
        for (following, number), gradient in zip(node.next_functions, gradients, strict=True):
            if following in self.nodes:
                if gradient is not None:
                    self.give(following, number, gradient)
                self.waits_for[following] -= 1
                if not self.waits_for[following]:
                    self.ready.append(following)


def _all_that_lead_to(targets: set[Node], feeds: dict[Node, list[Node]]) -> set[Node]:
    found = [target for target in targets if target in feeds]
    nodes = set(found)
    for node in found:  # grows meanwhile
        new = set(feeds[node]) - nodes
        nodes |= new
        found += new
    return nodes


def _call(node: Node, incoming: Gradients) -> Gradients:
    """A gradient for each of the node's edges."""
    if not hasattr(node, "needs_input_grad"):
        outgoing = node(*incoming)
        return list(outgoing) if isinstance(outgoing, tuple) else [outgoing]
    # A function written in Python has zeros for what did not arrive, and answers for what is no tensor, too.
    zeros = [torch.zeros(each.shape, dtype=each.dtype, device=each.device) for each in node._input_metadata]
    outgoing = node.apply(*(zero if each is None else each for each, zero in zip(incoming, zeros, strict=True)))
    several = outgoing if isinstance(outgoing, tuple) else (outgoing,)
    answers = iter([each for each, needed in zip(several, node.needs_input_grad, strict=False) if needed])
    return [None if following is None else next(answers) for following, _ in node.next_functions]


def _accumulate(leaf: Tensor, gradient: Tensor | None) -> None:
    """Add to a leaf's `grad`, which has the leaf's strides."""
    if gradient is None:
        return
    strides = zip(leaf.shape, leaf.stride(), gradient.stride(), strict=True)
    if any(size != 1 and stride != other for size, stride, other in strides):
        gradient = torch.empty_like(leaf).copy_(gradient)
    leaf.grad = gradient.detach() if leaf.grad is None else leaf.grad + gradient


def _several(tensors: Any) -> list[Any]:
    if tensors is None:
        return []
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)

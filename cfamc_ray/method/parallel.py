"""Data-parallel workers: embeddings are gathered with their gradient, gradients are summed.

Every worker computes the loss of the global batch. So the gradient with respect to a worker's own embeddings is already
complete, and the gradient of the weights is the sum, not the mean, over workers.

Shapes: V views, b images of one worker, B images of all, D embedding width; N rows of anything, n of one worker.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class _GatherImages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_VbD: Tensor) -> Tensor:
        return gather_images(z_VbD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient_VBD,) = gradients
        return gradient_VBD.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]


def gather_embeddings(z_VbD: Tensor) -> Tensor:
    """Gather z_VBD of all workers in rank order; the gradient flows back to the worker's own part."""
    return cast(Tensor, _GatherImages.apply(z_VbD))


def gather_images(values_Vb: Tensor) -> Tensor:
    """Concatenate the workers' values along the second axis, in rank order, without a gradient."""
    parts = [torch.empty_like(values_Vb, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values_Vb.contiguous())
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of a worker.

    Workers may each compute a part of the rows of a result, and then gather the same complete result.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def part(self, rows_N: Tensor) -> Tensor:
        """The rows_n of this worker: N / world_size rows, rounded up; after the last row, the first rows are repeated.

        Args:
            rows_N: all rows, at least one.
        """
        if self.world_size == 1:
            return rows_N
        n = -(-len(rows_N) // self.world_size)
        return rows_N[torch.arange(self.rank * n, (self.rank + 1) * n, device=rows_N.device) % len(rows_N)]

    def gather(self, rows_n: Tensor, count: int) -> Tensor:
        """Gather rows_N of all workers, which have each computed the rows of their `part`.

        Args:
            rows_n: rows of this worker, of equal shape on all workers.
            count: number of rows without repetitions (N).
        """
        if self.world_size == 1:
            return rows_n
        rows_X = rows_n.new_empty(self.world_size * len(rows_n), *rows_n.shape[1:])
        dist.all_gather_into_tensor(rows_X, rows_n.contiguous())
        return rows_X[:count]

    def same_on_all(self, number: int) -> bool:
        """Whether all workers have the same number."""
        numbers_W = self.gather(torch.tensor([int(number)], device=self.device), self.world_size)
        return bool((numbers_W == number).all())

    def as_first(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast the values of tensors from the first worker to all, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


ALONE = DistributedContext()
"""The context of a single worker, which computes all rows."""


def data_parallel(module: nn.Module) -> DistributedDataParallel:
    """Wrap a module so that its backward pass leaves the sum of the workers' gradients on each worker."""
    wrapper = DistributedDataParallel(module)
    wrapper.register_comm_hook(None, _sum_gradients)
    return wrapper


def _sum_gradients(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: cast(Tensor, future.value()[0]))

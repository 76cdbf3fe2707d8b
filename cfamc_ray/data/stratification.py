"""An order of images in which every prefix is a fair sample of the classes (N images)."""

import numpy as np
import torch


def stratified_order(labels_N: torch.Tensor, seed: int) -> torch.Tensor:
    """A random order of the images whose every prefix holds each class in proportion.

    The i-th image of a shuffled class of n stands at the share (i + 1/2) / n of the order. So the count of a class
    in any prefix differs from proportion by less than one image where classes are equally large, and by at most
    (1 + r) / 2 images for a class of r times the mean size.

    Args:
        labels_N: classes on the CPU, any integers.
        seed: equal seeds give equal orders, on every platform.

    Returns:
        int64 permutation of 0 to N - 1.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    _, class_of, sizes = np.unique(labels_N.numpy()[shuffled], return_inverse=True, return_counts=True)
    rank_in_class = np.empty(len(shuffled), dtype=np.int64)
    rank_in_class[np.argsort(class_of, kind="stable")] = np.concatenate([np.arange(size) for size in [0, *sizes]])
    share = (rank_in_class + 0.5) / sizes[class_of]
    # A stable sort leaves equal shares in shuffled order: no class is favoured for its number.
    return torch.from_numpy(shuffled[np.argsort(share, kind="stable")])


def interleaved(*orders: torch.Tensor) -> torch.Tensor:
    """Several orders as one, each in its own order, of which every prefix holds each in proportion.

    Args:
        orders: 1-D tensors on the CPU.

    Returns:
        All their elements.
    """
    shares = torch.cat([(torch.arange(len(order), dtype=torch.float64) + 0.5) / len(order) for order in orders])
    return torch.cat(orders)[shares.argsort(stable=True)]

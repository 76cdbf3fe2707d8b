"""Orders of images in which every prefix is a stratified sample of the classes (N images)."""

import numpy as np
import torch


def stratified_order(labels_N: torch.Tensor, seed: int) -> torch.Tensor:
    """A random order of images in which every prefix holds each class in proportion.

    The i-th image of a shuffled class of n images is placed at the fraction (i + 1/2) / n of the order. So the number
    of images of a class in any prefix differs from proportion by less than one if all classes are equally large, and
    by at most (1 + r) / 2 for a class of r times the mean size.

    Args:
        labels_N: classes, any integers, on the CPU.
        seed: equal seeds give equal orders, on every platform.

    Returns:
        int64 permutation of 0 to N - 1.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    _, class_of, sizes = np.unique(labels_N.numpy()[shuffled], return_inverse=True, return_counts=True)
    rank_in_class = np.empty(len(shuffled), dtype=np.int64)
    rank_in_class[np.argsort(class_of, kind="stable")] = np.concatenate([np.arange(size) for size in [0, *sizes]])
    share = (rank_in_class + 0.5) / sizes[class_of]
    # A stable sort keeps equal shares in shuffled order, so no class is favoured because of its number.
    return torch.from_numpy(shuffled[np.argsort(share, kind="stable")])


def balanced_draw(labels_N: torch.Tensor, per_class: int, seed: int, draw: int = 0) -> torch.Tensor:
    """Draw equally many images of each class at random; a larger draw holds the images of a smaller one.

    Args:
        labels_N: classes, any integers, on the CPU.
        per_class: number of images of each class, which must have as many.
        seed: equal seeds give equal draws, on every platform.
        draw: number of the draw, from 0; draws are independent of each other.

    Returns:
        int64 indices, `per_class` of each class, in random order.
    """
    shuffled = np.random.default_rng((seed, draw)).permutation(len(labels_N))
    labels = labels_N.numpy()[shuffled]
    places = np.concatenate([np.flatnonzero(labels == each)[:per_class] for each in np.unique(labels)])
    return torch.from_numpy(shuffled[np.sort(places)])


def interleaved(*orders: torch.Tensor) -> torch.Tensor:
    """Merge several orders into one, keeping each, so that every prefix holds each of them in proportion.

    Args:
        orders: 1-D tensors on the CPU.

    Returns:
        All their elements.
    """
    shares = torch.cat([(torch.arange(len(order), dtype=torch.float64) + 0.5) / len(order) for order in orders])
    return torch.cat(orders)[shares.argsort(stable=True)]

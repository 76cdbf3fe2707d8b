"""Confidence intervals of accuracies."""

from scipy.stats import binomtest


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """95 % Wilson interval of the accuracy on all images, of which some were sampled.

    Args:
        right: number of sampled images that are classified correctly, from 0 to `images`.
        images: number of sampled images, at least 1.

    Returns:
        Low and high end, from 0 to 1.
    """
    low, high = binomtest(right, images).proportion_ci(method="wilson")
    return float(low), float(high)

"""Confidence intervals of accuracies."""

import math

Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(right: float, images: int) -> tuple[float, float]:
    """95 % Wilson interval of the accuracy on all images, of which some were sampled.

    Args:
        right: number of sampled images that are classified correctly, from 0 to `images`; it may be a mean.
        images: number of sampled images, at least 1.

    Returns:
        Low and high end, from 0 to 1.
    """
    share, weight = right / images, Z * Z / images
    centre = share + weight / 2
    half = math.sqrt(weight * (share * (1 - share) + weight / 4))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    return (low if right else 0.0), (high if right < images else 1.0)  # these ends are exact

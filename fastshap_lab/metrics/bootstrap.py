"""Uncertainty of a metric that comes from the choice of images."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class PairedTest(NamedTuple):
    """Comparison of two explanations on the same images.

    Attributes:
        difference: Mean over images of the first explanation's value minus the second's.
        low: Lower bound of its 95 % percentile interval from resampling images.
        high: Upper bound of that interval.
        p_value: Two-sided p-value of the sign-flip permutation test.
        images: Number of images for which both values are defined.

    Example:
        >>> PairedTest(difference=0.5, low=0.25, high=0.75, p_value=0.01, images=100).low
        0.25
    """

    difference: float
    low: float
    high: float
    p_value: float
    images: int


def bootstrap_sums(
    per_image: Float[Tensor, "N columns"], resamples: int, seed: int = 0
) -> Float[Tensor, "resamples columns"]:
    """Return the column sums over N images drawn with replacement, for each resample.

    Reference: Efron, Bootstrap methods: another look at the jackknife, 1979.

    Args:
        per_image: One row per image.
        resamples: Number of bootstrap resamples.
        seed: Seed for drawing images.

    Example:
        >>> bootstrap_sums(torch.tensor([[2.0], [2.0], [2.0]]), resamples=2).tolist()  # 3 images, whichever are drawn
        [[6.0], [6.0]]
    """
    generator = torch.Generator().manual_seed(seed)
    number = len(per_image)
    drawn = torch.randint(number, (resamples, number), generator=generator)
    counts = torch.zeros(resamples, number, dtype=per_image.dtype).scatter_add_(
        1, drawn, torch.ones(1, 1, dtype=per_image.dtype).expand(resamples, number)
    )
    return counts @ per_image


def bootstrap_means(
    per_image: Float[Tensor, "N columns"], resamples: int, seed: int = 0
) -> Float[Tensor, "resamples columns"]:
    """Return the column means over images drawn with replacement, for each resample.

    NaN entries are left out; a mean without any entry is NaN.

    Args:
        per_image: One row per image, NaN where a value is undefined.
        resamples: Number of bootstrap resamples.
        seed: Seed for drawing images.

    Example:
        >>> bootstrap_means(torch.tensor([[2.0, torch.nan], [2.0, torch.nan]]), resamples=1).tolist()
        [[2.0, nan]]
    """
    undefined = per_image.isnan()
    parts = torch.cat([per_image.masked_fill(undefined, 0), (~undefined).to(per_image.dtype)], dim=1)
    sums, counts = bootstrap_sums(parts, resamples, seed).chunk(2, dim=1)
    return sums / counts


def percentile_intervals(resampled: Float[Tensor, "resamples columns"]) -> Float[Tensor, "2 columns"]:
    """Return the lower and upper bounds of 95 % percentile intervals; NaN resamples are left out.

    Example:
        >>> percentile_intervals(torch.arange(0.0, 41.0).unsqueeze(1)).tolist()
        [[1.0], [39.0]]
    """
    return resampled.nanquantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype), dim=0)


def paired_test(first: Float[Tensor, " N"], second: Float[Tensor, " N"], resamples: int, seed: int = 0) -> PairedTest:
    """Return the mean difference on the same images, its interval, and a permutation test of it.

    If the two explanations were equally good, each image's difference could as well have the other sign: ``p_value`` is
    the share of random sign flips whose mean is at least as far from zero as the observed one. The observed signs count
    as one of the flips, so the p-value is at least ``1 / (resamples + 1)``.

    Reference: Phipson and Smyth, Permutation p-values should never be zero, 2010, arXiv:1603.05766.

    Args:
        first: Values of the first explanation, NaN where undefined.
        second: Values of the second explanation for the same images.
        resamples: Number of bootstrap resamples, and of sign flips.
        seed: Seed for drawing images and signs.

    Example:
        >>> test = paired_test(torch.tensor([3.0, torch.nan, 4.0]), torch.tensor([1.0, 1.0, 2.0]), resamples=99)
        >>> test.difference, test.low, test.high, test.images
        (2.0, 2.0, 2.0, 2)
    """
    difference = (first - second).double()
    difference = difference[~difference.isnan()]
    if not len(difference):
        return PairedTest(torch.nan, torch.nan, torch.nan, torch.nan, 0)
    low, high = percentile_intervals(bootstrap_means(difference.unsqueeze(1), resamples, seed)).squeeze(1).tolist()
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (resamples, len(difference)), generator=generator) - 1
    flipped = (signs.double() @ difference).abs()
    # Equal sums may differ by rounding errors, depending on the order of addition.
    reached = flipped >= difference.sum().abs() - 1e-12 * difference.abs().sum()
    p_value = (1 + int(reached.sum())) / (1 + resamples)
    return PairedTest(difference.mean().item(), low, high, p_value, len(difference))

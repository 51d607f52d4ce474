"""Uncertainty that comes from which images were looked at."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class PairedTest(NamedTuple):
    """How the first of two explanations differs from the second on the same images.

    Attributes:
        difference: Mean over images of the first less the second.
        low: Lower end of its 95 % percentile interval, from resampling images.
        high: Upper end.
        p_value: Two-sided, of the sign-flip permutation test.
        images: Number of images on which both are defined.
    """

    difference: float
    low: float
    high: float
    p_value: float
    images: int


def bootstrap_sums(
    per_image: Float[Tensor, "N columns"], resamples: int, seed: int = 0
) -> Float[Tensor, "resamples columns"]:
    """Return column sums over images drawn N times with replacement, once per resample.

    Reference: Efron, Bootstrap methods: another look at the jackknife, 1979.
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
    """Return column means over the drawn images where the column is not NaN; NaN where none was drawn."""
    undefined = per_image.isnan()
    parts = torch.cat([per_image.masked_fill(undefined, 0), (~undefined).to(per_image.dtype)], dim=1)
    sums, counts = bootstrap_sums(parts, resamples, seed).chunk(2, dim=1)
    return sums / counts


def percentile_intervals(resampled: Float[Tensor, "resamples columns"]) -> Float[Tensor, "2 columns"]:
    """Return the lower and upper ends of 95 % percentile intervals, over the resamples in which there is a value."""
    return resampled.nanquantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype), dim=0)


def paired_test(first: Float[Tensor, " N"], second: Float[Tensor, " N"], resamples: int, seed: int = 0) -> PairedTest:
    """Return the mean difference on the same images, its interval, and whether chance accounts for it.

    If the two explanations were alike, each image's difference could as well have the other sign: ``p_value`` is the
    share of random sign flips whose mean is at least as far from zero, the flips actually seen among them, so that it
    is never below ``1 / (resamples + 1)``.

    Reference: Phipson and Smyth, Permutation p-values should never be zero, 2010, arXiv:1603.05766, on counting it in.
    """
    difference = (first - second).double()
    difference = difference[~difference.isnan()]
    if not len(difference):
        return PairedTest(torch.nan, torch.nan, torch.nan, torch.nan, 0)
    low, high = percentile_intervals(bootstrap_means(difference.unsqueeze(1), resamples, seed)).squeeze(1).tolist()
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (resamples, len(difference)), generator=generator) - 1
    flipped = (signs.double() @ difference).abs()
    # Equal sums may differ by rounding, according to the order they were added up in.
    reached = flipped >= difference.sum().abs() - 1e-12 * difference.abs().sum()
    p_value = (1 + int(reached.sum())) / (1 + resamples)
    return PairedTest(difference.mean().item(), low, high, p_value, len(difference))

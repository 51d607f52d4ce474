"""Tests of differences between two groups of images, and their correction for multiple testing."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import permutation_test
from torch import Tensor

_NUMBERS = 2**22  # largest number of values in memory: all columns, for several relabellings


def two_sample_p_values(
    first: Float[Tensor, "N columns"], second: Float[Tensor, "M columns"], resamples: int, seed: int = 0
) -> Float[Tensor, " columns"]:
    """Return the two-sided p-value of a permutation test of the groups' difference in means, for each column.

    If the groups did not differ, any other N of the images could as well be the first group: p is the share of random
    choices of N images with a difference of means that is at least the observed one. If there are at most ``resamples``
    choices, all are used. The observed choice counts as one, so random choices never give less than ``1 / (resamples +
    1)``. All columns share the choices. NaN entries are left out; p is NaN if a group has no others.

    Reference: Phipson and Smyth, Permutation p-values should never be zero, 2010, arXiv:1603.05766.

    Args:
        first: Values of the first group's N images.
        second: Values of the second group's M images.
        resamples: Largest number of choices.
        seed: Seed for drawing choices.

    Example:
        >>> first, second = torch.tensor([[5.0], [6.0]]), torch.tensor([[1.0], [2.0]])
        >>> round(two_sample_p_values(first, second, resamples=99).item(), 3)  # 2 of the 6 choices of two images
        0.333
    """
    values, number = torch.cat([first, second]).double(), len(first)
    p_values = torch.full_like(values[0], torch.nan)
    patterns, pattern_of = (~values.isnan()).unique(dim=1, return_inverse=True)
    for place, defined in enumerate(patterns.unbind(dim=1)):
        chosen, left = pattern_of == place, int(defined[:number].sum())
        if 0 < left < defined.sum():
            columns = values[defined][:, chosen]
            columns /= columns.abs().amax(dim=0).clamp(min=torch.finfo(columns.dtype).tiny)
            if 1 in (left, len(columns) - left):  # SciPy refuses groups of one; here there are few choices to try
                others = (columns.sum(dim=0) - columns) / (len(columns) - 1)
                apart = (columns - others).abs().numpy().round(12)
                seen = apart[0] if left == 1 else apart[-1]
                p_values[chosen] = torch.from_numpy((apart >= seen).mean(axis=0))
                continue
            test = permutation_test(
                (columns[:left].numpy(), columns[left:].numpy()),
                _distance,
                vectorized=True,
                n_resamples=resamples,
                batch=max(1, _NUMBERS // columns.numel()),
                alternative="greater",
                rng=np.random.default_rng(seed),
            )
            p_values[chosen] = torch.from_numpy(test.pvalue)
    return p_values


def holm(p_values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return Holm's step-down adjusted p-values, which control the family-wise error rate.

    NaN entries are ignored and stay NaN.

    Reference: Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> [round(p, 3) for p in holm(torch.tensor([0.25, 0.01, torch.nan])).tolist()]
        [0.25, 0.02, nan]
    """
    defined = ~p_values.isnan()
    ascending, order = p_values[defined].sort()
    stepwise = (ascending * torch.arange(len(order), 0, -1).to(ascending)).cummax(dim=0).values.clamp(max=1)
    corrected = p_values.clone()
    corrected[defined] = torch.empty_like(ascending).scatter_(0, order, stepwise)
    return corrected


def _distance(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    # Equal sums may differ by rounding errors, depending on the order of addition.
    return np.abs(first.mean(axis=axis) - second.mean(axis=axis)).round(12)

"""Whether two groups of images differ, and how many such questions one may ask."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import permutation_test
from torch import Tensor

_NUMBERS = 2**22  # in memory at once: values of all columns, relabelled some times


def two_sample_p_values(
    first: Float[Tensor, "N columns"], second: Float[Tensor, "M columns"], resamples: int, seed: int = 0
) -> Float[Tensor, " columns"]:
    """Return, for each column, how often chance alone sets the groups' means as far apart; two-sided.

    If the groups did not differ, any other N of the images could as well be the first one: p is the share of random
    choices whose difference of means is at least that seen, which counts as one of them, so that p is never below
    ``1 / (resamples + 1)``; of all choices, where there are no more than ``resamples``. Columns have their choices in
    common. NaN is left out; p is NaN where that leaves nothing of a group.

    Reference: Phipson and Smyth, Permutation p-values should never be zero, 2010, arXiv:1603.05766.
    """
    values, number = torch.cat([first, second]).double(), len(first)
    p_values = torch.full_like(values[0], torch.nan)
    patterns, pattern_of = (~values.isnan()).unique(dim=1, return_inverse=True)
    for place, defined in enumerate(patterns.unbind(dim=1)):
        chosen, left = pattern_of == place, int(defined[:number].sum())
        if 0 < left < defined.sum():
            columns = values[defined][:, chosen]
            columns /= columns.abs().amax(dim=0).clamp(min=torch.finfo(columns.dtype).tiny)
            if 1 in (left, len(columns) - left):  # which SciPy refuses, and where there are few choices
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
    """Return p-values corrected for how many they are: rejecting those up to 5 % errs at all in 5 % of such tables.

    NaN is no question, and stays.

    Reference: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    asked = ~p_values.isnan()
    ascending, order = p_values[asked].sort()
    stepwise = (ascending * torch.arange(len(order), 0, -1).to(ascending)).cummax(dim=0).values.clamp(max=1)
    corrected = p_values.clone()
    corrected[asked] = torch.empty_like(ascending).scatter_(0, order, stepwise)
    return corrected


def _distance(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    # Equal sums may differ by rounding, according to the order they were added up in.
    return np.abs(first.mean(axis=axis) - second.mean(axis=axis)).round(12)

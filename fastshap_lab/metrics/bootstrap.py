"""Uncertainty that comes from which images were looked at."""

import torch
from jaxtyping import Float
from torch import Tensor


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

"""Agreement of rows of numbers, along the second axis: NaN where it is undefined."""

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor


def cosine(left: Float[Tensor, "B N K"], right: Float[Tensor, "B N K"]) -> Float[Tensor, "B K"]:
    """Return the cosine of the angle between them, NaN where one is zero."""
    # Not torch's, which takes short vectors for longer ones: values of a class without probability are tiny.
    return (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1))


def pearson(left: Float[Tensor, "B N K"], right: Float[Tensor, "B N K"]) -> Float[Tensor, "B K"]:
    """Return the linear correlation, NaN where one is constant."""
    return cosine(_centred(left), _centred(right))


def spearman(left: Float[Tensor, "B N K"], right: Float[Tensor, "B N K"]) -> Float[Tensor, "B K"]:
    """Return the correlation of ranks, which ties share; NaN where one is constant."""
    return pearson(_ranks(left), _ranks(right))


def _centred(values: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
    # The mean of equal numbers may be off by rounding: of differences from the first of them it is exactly zero.
    shifted = values - values[:, :1]
    return shifted - shifted.mean(dim=1, keepdim=True)


def _ranks(values: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
    return torch.from_numpy(rankdata(values.cpu().numpy(), axis=1)).to(values.device)

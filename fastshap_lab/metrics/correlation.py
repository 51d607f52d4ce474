"""Agreement of two vectors along the second axis, NaN where it is undefined."""

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor


def cosine(left: Float[Tensor, "B N K"], right: Float[Tensor, "B N K"]) -> Float[Tensor, "B K"]:
    """Return the cosine similarity, NaN where a vector is zero.

    Args:
        left: First vectors, of N entries.
        right: Second vectors.

    Example:
        >>> round(cosine(torch.tensor([[[3.0], [4.0]]]), torch.tensor([[[1.0], [0.0]]])).item(), 3)
        0.6
    """
    # PyTorch's own bounds the norms from below, which is wrong for the tiny values of a very improbable class.
    return (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1))


def pearson(left: Float[Tensor, "B N K"], right: Float[Tensor, "B N K"]) -> Float[Tensor, "B K"]:
    """Return the Pearson correlation, NaN where a vector is constant.

    Args:
        left: First vectors, of N entries.
        right: Second vectors.

    Example:
        >>> left, right = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([6.0, 4.0, 2.0])
        >>> round(pearson(left.view(1, 3, 1), right.view(1, 3, 1)).item(), 3)
        -1.0
    """
    return cosine(_centred(left), _centred(right))


def spearman(left: Float[Tensor, "B N K"], right: Float[Tensor, "B N K"]) -> Float[Tensor, "B K"]:
    """Return the Spearman rank correlation, NaN where a vector is constant. Ties share their mean rank.

    Args:
        left: First vectors, of N entries.
        right: Second vectors.

    Example:
        >>> left, right = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0])
        >>> round(spearman(left.view(1, 3, 1), right.view(1, 3, 1)).item(), 3)
        1.0
    """
    return pearson(_ranks(left), _ranks(right))


def _centred(values: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
    # The mean of equal numbers has rounding errors. The mean of their differences from the first is exactly zero.
    shifted = values - values[:, :1]
    return shifted - shifted.mean(dim=1, keepdim=True)


def _ranks(values: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
    return torch.from_numpy(rankdata(values.cpu().numpy(), axis=1)).to(values.device)

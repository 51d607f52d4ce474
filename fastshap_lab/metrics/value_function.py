"""Value functions as metrics use them, evaluated in batches that fit in memory."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.errors import check_max_batch

ValueFunction = Callable[[Tensor, Tensor], Tensor]
"""Function of images (B, C, H, W) and coalitions (B, M, P) that returns the values (B, M, K) of all classes."""


def values_in_chunks(
    value_fn: ValueFunction,
    image: Float[Tensor, "B C H W"],
    num_coalitions: int,
    coalitions: Callable[[slice, slice], Bool[Tensor, "b m P"]],
    max_batch: int,
) -> Float[Tensor, "B M K"]:
    """Return the values of coalitions that are created only when they are evaluated.

    Args:
        value_fn: Value function. It gets at most ``max_batch`` coalitions per call, of one or several images.
        image: Images.
        num_coalitions: Number M of coalitions per image.
        coalitions: Function of a slice of images and a slice of 0 … M - 1 that returns these coalitions.
        max_batch: Largest number of coalitions, summed over images, per call. It changes values by rounding errors
            only.

    Raises:
        UserError: ``max_batch`` is below 1.

    Example:
        >>> def number_of_players(image, coalitions):
        ...     return coalitions.sum(dim=2, keepdim=True).float()
        >>> everyone = torch.ones(2, 3, 4, dtype=torch.bool)
        >>> image = torch.rand(2, 1, 2, 2)
        >>> values_in_chunks(number_of_players, image, 3, lambda *part: everyone[part], max_batch=2).flatten().tolist()
        [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    """
    check_max_batch(max_batch)
    together = max(1, max_batch // num_coalitions)
    values = []
    for start in range(0, len(image), together):
        rows = slice(start, start + together)
        parts = (slice(first, first + max_batch) for first in range(0, num_coalitions, max_batch))
        of_rows = [value_fn(image[rows], coalitions(rows, part).to(image.device)) for part in parts]
        values.append(torch.cat(of_rows, dim=1))
    return torch.cat(values)


def coalition_values(
    value_fn: ValueFunction, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "#B M P"], max_batch: int = 256
) -> Float[Tensor, "B M K"]:
    """Return the values of coalitions.

    Args:
        value_fn: Value function. It gets at most ``max_batch`` coalitions per call, of one or several images.
        image: Images.
        coalitions: Coalitions, of each image its own or one set for all.
        max_batch: Largest number of coalitions, summed over images, per call. It changes values by rounding errors
            only.

    Raises:
        UserError: ``max_batch`` is below 1.

    Example:
        >>> def number_of_players(image, coalitions):
        ...     return coalitions.sum(dim=2, keepdim=True).float()
        >>> coalitions = torch.tensor([[[True, True], [False, True]]])
        >>> coalition_values(number_of_players, torch.rand(2, 1, 2, 2), coalitions).tolist()
        [[[2.0], [1.0]], [[2.0], [1.0]]]
    """
    coalitions = coalitions.expand(len(image), -1, -1)
    return values_in_chunks(value_fn, image, coalitions.shape[1], lambda *part: coalitions[part], max_batch)

"""Value functions as metrics see them, and how to ask them for much without running out of memory."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.errors import check_max_batch

ValueFunction = Callable[[Tensor, Tensor], Tensor]
"""Takes images (B, C, H, W) and coalitions (B, M, P) to values of all classes (B, M, K)."""


def values_in_chunks(
    value_fn: ValueFunction,
    image: Float[Tensor, "B C H W"],
    num_coalitions: int,
    coalitions: Callable[[slice, slice], Bool[Tensor, "b m P"]],
    max_batch: int,
) -> Float[Tensor, "B M K"]:
    """Return the values of coalitions that are made only when they are asked about.

    Args:
        value_fn: Asked for at most ``max_batch`` coalitions at a time, of one or of several images.
        image: Images.
        num_coalitions: M, of each image.
        coalitions: Returns the coalitions of a range of images and a range of M.
        max_batch: Changes values by rounding only.

    Raises:
        UserError: ``max_batch`` is below 1.
    """
    check_max_batch(max_batch)
    together = max(1, max_batch // num_coalitions)
    values = []
    for start in range(0, len(image), together):
        rows = slice(start, start + together)
        asked = (slice(first, first + max_batch) for first in range(0, num_coalitions, max_batch))
        of_rows = [value_fn(image[rows], coalitions(rows, part).to(image.device)) for part in asked]
        values.append(torch.cat(of_rows, dim=1))
    return torch.cat(values)


def coalition_values(
    value_fn: ValueFunction, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "#B M P"], max_batch: int = 256
) -> Float[Tensor, "B M K"]:
    """Return the values of coalitions, of each image its own or the same for all."""
    coalitions = coalitions.expand(len(image), -1, -1)
    return values_in_chunks(value_fn, image, coalitions.shape[1], lambda *part: coalitions[part], max_batch)

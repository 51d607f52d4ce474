"""How alike two explanations of the same image are, player by player."""

from math import gcd

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.metrics.correlation import cosine, pearson, spearman
from fastshap_lab.metrics.per_image import PerImage


def coarsened(maps: Float[Tensor, "B _ _"], shape: tuple[int, int]) -> Float[Tensor, "B rows columns"]:
    """Return maps on a coarser grid, whose cells are sums of theirs.

    Args:
        maps: Values of players.
        shape: Rows and columns; each must divide the map's.
    """
    rows, columns = shape
    return maps.unflatten(2, (columns, -1)).sum(dim=3).unflatten(1, (rows, -1)).sum(dim=2)


class MapAgreement(PerImage):
    """Pearson and Spearman correlation, and cosine, over players; in [-1, 1].

    Maps on different grids are compared on the finest one that both can be summed to: the coarser of the two where one
    divides the other. Undefined where a map is constant, for the cosine where it is zero.
    """

    columns = ("pearson", "spearman", "cosine")
    higher_is_better = None

    def update(self, first: Float[Tensor, "B _ _"], second: Float[Tensor, "B _ _"]) -> None:
        """Add pairs of maps, a value per player."""
        shape = gcd(first.shape[1], second.shape[1]), gcd(first.shape[2], second.shape[2])
        left, right = (coarsened(maps.double(), shape).flatten(1).unsqueeze(2) for maps in (first, second))
        self.rows.append(torch.cat([measure(left, right) for measure in (pearson, spearman, cosine)], dim=1))

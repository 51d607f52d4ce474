"""Agreement between two explanations of the same image over players."""

from math import gcd

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.metrics.correlation import cosine, pearson, spearman
from fastshap_lab.metrics.per_image import PerImage


def coarsened(maps: Float[Tensor, "B _ _"], shape: tuple[int, int]) -> Float[Tensor, "B rows columns"]:
    """Return maps on a coarser grid; each cell is the sum of the cells it covers.

    Args:
        maps: Maps with one value per player.
        shape: Rows and columns of the coarser grid, which must divide those of the maps.

    Example:
        >>> coarsened(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), (1, 2)).tolist()
        [[[3.0, 7.0]]]
    """
    rows, columns = shape
    return maps.unflatten(2, (columns, -1)).sum(dim=3).unflatten(1, (rows, -1)).sum(dim=2)


class MapAgreement(PerImage):
    """Pearson and Spearman correlation and cosine similarity over players, each in [-1, 1].

    Maps on different grids are compared on the finest grid to which both can be summed, which is the coarser of the two
    where one divides the other. The correlations are undefined where a map is constant, the cosine where it is zero.

    Example:
        >>> metric = MapAgreement()
        >>> metric.update(torch.tensor([[[1.0, 2.0, 3.0, 6.0]]]), torch.tensor([[[1.0, 3.0]]]))  # sums: 3 and 9
        >>> {name: round(value, 3) for name, value in metric.compute().items()}
        {'pearson': 1.0, 'spearman': 1.0, 'cosine': 1.0}
    """

    columns = ("pearson", "spearman", "cosine")
    higher_is_better = None

    def update(self, first: Float[Tensor, "B _ _"], second: Float[Tensor, "B _ _"]) -> None:
        """Add pairs of maps, with one value per player.

        Args:
            first: Map of each image from the first explanation.
            second: Map of each image from the second explanation, on the same or another grid.
        """
        shape = gcd(first.shape[1], second.shape[1]), gcd(first.shape[2], second.shape[2])
        left, right = (coarsened(maps.double(), shape).flatten(1).unsqueeze(2) for maps in (first, second))
        self.rows.append(torch.cat([measure(left, right) for measure in (pearson, spearman, cosine)], dim=1))

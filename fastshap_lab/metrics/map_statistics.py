"""Position and concentration of a map's mass, which is the absolute values of the map."""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage


def central_share(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, " B"]:
    """Return the share of the mass in the central half of rows and columns, a quarter of the image; NaN without mass.

    It is in [0, 1], and 0.25 for a uniform map on any grid: of cells that cross the border of the central part, the
    share inside counts.

    Example:
        >>> central_share(torch.ones(1, 3, 3)).item()
        0.25
    """
    rows, columns = (_inside(side).to(maps.device) for side in maps.shape[1:])
    return (_shares(maps) * rows.unsqueeze(1) * columns).sum(dim=(1, 2))


def map_entropy(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, " B"]:
    """Return the entropy of the mass, divided by that of a uniform map; NaN without mass.

    It is 1 for a uniform map and 0 if one cell has all of the mass.

    Example:
        >>> map_entropy(torch.tensor([[[1.0, -1.0, 0.0, 0.0]]])).item()
        0.5
    """
    shares = _shares(maps).flatten(1)
    # Rounding errors can exceed the bounds slightly.
    return (-torch.xlogy(shares, shares).sum(dim=1) / log(shares.shape[1])).clamp(0, 1)


def centroid(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B 2"]:
    """Return row and column of the mass's centroid, as shares of height and width from the top left; NaN without mass.

    Example:
        >>> centroid(torch.tensor([[[0.0, 0.0], [0.0, 5.0]]])).tolist()
        [[0.75, 0.75]]
    """
    shares = _shares(maps)
    row, column = (((torch.arange(side) + 0.5) / side).to(shares) for side in maps.shape[1:])
    return torch.stack([(shares * row.unsqueeze(1)).sum(dim=(1, 2)), (shares * column).sum(dim=(1, 2))], dim=1)


class MapStatistics(PerImage):
    """Central share, entropy, and centroid (row and column) of maps with two cells or more; each in [0, 1].

    All are undefined where a map is zero everywhere or not finite.

    Example:
        >>> metric = MapStatistics()
        >>> metric.update(torch.ones(2, 4, 4))
        >>> metric.compute()
        {'central_share': 0.25, 'entropy': 1.0, 'row': 0.5, 'column': 0.5}
    """

    columns = ("central_share", "entropy", "row", "column")
    higher_is_better = None

    def update(self, maps: Float[Tensor, "B rows columns"]) -> None:
        """Add maps at any resolution."""
        measures = [central_share(maps).unsqueeze(1), map_entropy(maps).unsqueeze(1), centroid(maps)]
        self.rows.append(torch.cat(measures, dim=1))


def _shares(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B rows columns"]:
    mass = maps.double().abs()
    return mass / mass.sum(dim=(1, 2), keepdim=True)


def _inside(side: int) -> Float[Tensor, " side"]:
    """Return the share of each of a line's equal cells that lies between one and three quarters of the line."""
    edges = (torch.arange(side + 1, dtype=torch.float64) / side).clamp(0.25, 0.75)
    return edges.diff() * side

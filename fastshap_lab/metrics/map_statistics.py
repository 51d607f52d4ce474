"""Where on the picture a map lies, and how concentrated it is; all of the absolute values, its mass."""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage


def central_share(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, " B"]:
    """Return the share of the mass in the central half of rows and columns, a quarter of the picture; NaN without mass.

    In [0, 1]; 0.25 for a uniform map, whatever its grid: of a cell that the border cuts, the part inside counts.
    """
    rows, columns = (_inside(side).to(maps.device) for side in maps.shape[1:])
    return (_shares(maps) * rows.unsqueeze(1) * columns).sum(dim=(1, 2))


def map_entropy(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, " B"]:
    """Return the entropy of the mass, divided by a uniform map's: 1 uniform, 0 a single cell; NaN without mass."""
    shares = _shares(maps).flatten(1)
    # Rounding may take it a little beyond the ends.
    return (-torch.xlogy(shares, shares).sum(dim=1) / log(shares.shape[1])).clamp(0, 1)


def centroid(maps: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B 2"]:
    """Return row and column of the mass's centre in units of the picture: 0 top and left, 1 the others; NaN without."""
    shares = _shares(maps)
    row, column = (((torch.arange(side) + 0.5) / side).to(shares) for side in maps.shape[1:])
    return torch.stack([(shares * row.unsqueeze(1)).sum(dim=(1, 2)), (shares * column).sum(dim=(1, 2))], dim=1)


class MapStatistics(PerImage):
    """Share of the mass in the centre, entropy, and centroid of maps of two cells or more; each in [0, 1].

    Undefined where a map is zero, or not finite.
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
    """Return the part of each of so many cells that lies between a quarter and three quarters of their line."""
    edges = (torch.arange(side + 1, dtype=torch.float64) / side).clamp(0.25, 0.75)
    return edges.diff() * side

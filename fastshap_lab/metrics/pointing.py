"""Whether a map points at the object."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.components import Share
from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.per_image import PerImage


def pointing_hits(maps: Float[Tensor, "B H W"], regions: Bool[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return 1 where the highest pixel, the first if there are several, lies in the region, else 0."""
    highest = maps.flatten(1).argmax(dim=1, keepdim=True)
    return regions.flatten(1).gather(1, highest).squeeze(1).double()


def pointing_energy(maps: Float[Tensor, "B H W"], regions: Bool[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return the share of the map, stretched to [0, 1], that lies in the region; NaN for constant maps."""
    energy = normalize_map(maps.double())
    return (energy * regions).sum(dim=(1, 2)) / energy.sum(dim=(1, 2))


class PointingGame(PerImage):
    """Hits of the highest pixel, without tolerance, and the energy that falls on the object; both in [0, 1].

    Undefined where there is no object, or the map is not finite.

    Args:
        most_cover: Images of which the object covers this share or more are left out, hits being too easy there.

    Reference: Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016, arXiv:1608.00507;
    Wang et al., Score-CAM, 2020, arXiv:1910.01279, on the energy.
    """

    columns = ("hit", "energy")
    higher_is_better = True
    feed = "regions"
    note = "Of images whose most probable class is their label, where they have one."

    def __init__(self, most_cover: Share | None = None) -> None:
        super().__init__()
        self.most_cover = most_cover

    def update(self, maps: Float[Tensor, "B H W"], regions: Bool[Tensor, "B H W"]) -> None:
        """Add maps at image size, each with the pixels of all objects of the class it explains."""
        rows = torch.stack([pointing_hits(maps, regions), pointing_energy(maps, regions)], dim=1)
        cover = regions.double().mean(dim=(1, 2))
        skipped = (cover == 0) | ~maps.isfinite().all(dim=(1, 2))
        if self.most_cover is not None:
            skipped |= cover >= self.most_cover
        self.rows.append(rows.masked_fill(skipped.unsqueeze(1), torch.nan))

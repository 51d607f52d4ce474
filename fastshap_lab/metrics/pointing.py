"""Whether a map points at the object."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.components import Share
from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.per_image import PerImage


def pointing_hits(maps: Float[Tensor, "B H W"], regions: Bool[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return 1 where a map's highest pixel (the first of several) lies in the region, else 0.

    Args:
        maps: Maps at image size.
        regions: Pixels of the object.

    Example:
        >>> maps = torch.tensor([[[0.1, 0.9]], [[0.8, 0.2]]])
        >>> pointing_hits(maps, torch.tensor([[[False, True]], [[False, True]]])).tolist()
        [1.0, 0.0]
    """
    highest = maps.flatten(1).argmax(dim=1, keepdim=True)
    return regions.flatten(1).gather(1, highest).squeeze(1).double()


def pointing_energy(maps: Float[Tensor, "B H W"], regions: Bool[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return the share of a map's energy in the region; the map is stretched to [0, 1] first, NaN if it is constant.

    Args:
        maps: Maps at image size.
        regions: Pixels of the object.

    Example:
        >>> pointing_energy(torch.tensor([[[0.0, 2.0, 4.0, 2.0]]]), torch.tensor([[[True, False, True, False]]])).item()
        0.5
    """
    energy = normalize_map(maps.double())
    return (energy * regions).sum(dim=(1, 2)) / energy.sum(dim=(1, 2))


class PointingGame(PerImage):
    """Whether the highest pixel lies on the object, without tolerance, and the share of the map's energy on it.

    Both are in [0, 1], and undefined where there is no object or the map is not finite.

    Args:
        most_cover: Share of an image in [0, 1]. Images whose object covers this share or more are left out, because
            hits are too easy there; None keeps all.

    Reference: Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016, arXiv:1608.00507; Wang et al.,
    Score-CAM, 2020, arXiv:1910.01279, for the energy.

    Example:
        >>> metric = PointingGame()
        >>> metric.update(torch.tensor([[[0.0, 2.0, 4.0, 2.0]]]), torch.tensor([[[True, False, True, False]]]))
        >>> metric.compute()
        {'hit': 1.0, 'energy': 0.5}
    """

    columns = ("hit", "energy")
    higher_is_better = True
    feed = "regions"
    note = "It covers images whose most probable class is their label, and images without a label."

    def __init__(self, most_cover: Share | None = None) -> None:
        super().__init__()
        self.most_cover = most_cover

    def update(self, maps: Float[Tensor, "B H W"], regions: Bool[Tensor, "B H W"]) -> None:
        """Add images.

        Args:
            maps: Maps at image size.
            regions: Pixels of all objects of the class that the map explains.
        """
        rows = torch.stack([pointing_hits(maps, regions), pointing_energy(maps, regions)], dim=1)
        cover = regions.double().mean(dim=(1, 2))
        skipped = (cover == 0) | ~maps.isfinite().all(dim=(1, 2))
        if self.most_cover is not None:
            skipped |= cover >= self.most_cover
        self.rows.append(rows.masked_fill(skipped.unsqueeze(1), torch.nan))

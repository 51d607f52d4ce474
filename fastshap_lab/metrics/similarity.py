"""Similarity of two maps of the same image."""

import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.correlation import spearman
from fastshap_lab.metrics.per_image import PerImage

_WINDOW = 7


def rank_similarity(first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return the Spearman correlation over pixels, NaN where a map is constant.

    Args:
        first: First maps.
        second: Second maps.

    Example:
        >>> first, second = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[9.0, 8.0], [7.0, 1.0]]])
        >>> round(rank_similarity(first, second).item(), 3)
        -1.0
    """
    left, right = (maps.double().flatten(1).unsqueeze(2) for maps in (first, second))
    return spearman(left, right).squeeze(1)


def structure_similarity(first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return the mean structural similarity (SSIM) of two maps, both stretched to [0, 1]; at most 1.

    Windows are 7×7, or the largest odd size that fits in the map; NaN if that is less than 3×3.

    Reference: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.

    Args:
        first: First maps.
        second: Second maps.

    Example:
        >>> maps = torch.rand(1, 8, 8)
        >>> round(structure_similarity(maps, 2 * maps).item(), 3)
        1.0
    """
    side = min(*first.shape[1:], _WINDOW)
    window = side - 1 + side % 2
    if window < 3:
        return first.new_full((len(first),), torch.nan, dtype=torch.float64)
    pairs = zip(normalize_map(first.double()).cpu().numpy(), normalize_map(second.double()).cpu().numpy(), strict=True)
    similarity = [structural_similarity(left, right, win_size=window, data_range=1.0) for left, right in pairs]
    return torch.tensor(similarity, dtype=torch.float64, device=first.device)


class Similarity(PerImage):
    """Spearman correlation of signed and of absolute values, and SSIM, by which sanity checks compare maps.

    Reference: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, arXiv:1810.03292.

    Example:
        >>> metric, maps = Similarity(), torch.rand(1, 8, 8) + 0.1
        >>> metric.update(maps, -maps)
        >>> found = metric.compute()
        >>> round(found["spearman"], 3), round(found["spearman_absolute"], 3)
        (-1.0, 1.0)
    """

    columns = ("spearman", "spearman_absolute", "ssim")
    higher_is_better = None

    def update(self, first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> None:
        """Add pairs of maps at their native resolution.

        Args:
            first: First maps.
            second: Second maps of the same images.
        """
        measures = [rank_similarity(first, second), rank_similarity(first.abs(), second.abs())]
        self.rows.append(torch.stack([*measures, structure_similarity(first, second)], dim=1))

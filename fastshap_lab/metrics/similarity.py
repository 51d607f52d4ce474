"""How alike two maps of the same image are."""

import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.correlation import spearman
from fastshap_lab.metrics.per_image import PerImage

_WINDOW = 7


def rank_similarity(first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return the Spearman correlation over pixels, NaN where a map is constant."""
    left, right = (maps.double().flatten(1).unsqueeze(2) for maps in (first, second))
    return spearman(left, right).squeeze(1)


def structure_similarity(first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Return the mean structural similarity (SSIM) of the maps, both stretched to [0, 1]; at most 1.

    Over windows of 7×7, or as large as an odd window fits in the map; NaN if that is less than 3×3.

    Reference: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.
    """
    side = min(*first.shape[1:], _WINDOW)
    window = side - 1 + side % 2
    if window < 3:
        return first.new_full((len(first),), torch.nan, dtype=torch.float64)
    pairs = zip(normalize_map(first.double()).cpu().numpy(), normalize_map(second.double()).cpu().numpy(), strict=True)
    similarity = [structural_similarity(left, right, win_size=window, data_range=1.0) for left, right in pairs]
    return torch.tensor(similarity, dtype=torch.float64, device=first.device)


class Similarity(PerImage):
    """Spearman correlation of signed and of absolute values, and SSIM: what sanity checks compare maps by.

    Reference: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, arXiv:1810.03292.
    """

    columns = ("spearman", "spearman_absolute", "ssim")
    higher_is_better = None

    def update(self, first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> None:
        """Add pairs of maps at their native resolution."""
        measures = [rank_similarity(first, second), rank_similarity(first.abs(), second.abs())]
        self.rows.append(torch.stack([*measures, structure_similarity(first, second)], dim=1))

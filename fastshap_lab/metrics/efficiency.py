"""How much attributions fall short of the total they should add up to."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.shapley.efficiency import efficiency_gap


class EfficiencyGap(PerImage):
    """Signed and absolute efficiency gap, in value units: of the target class, and the mean over the others.

    Signed gaps of images cancel in the mean: one near zero says that there is no bias, not that there is no gap.
    """

    columns = ("target", "target_absolute", "others", "others_absolute")
    higher_is_better = False
    feed, main_column, needs_units = "totals", "target_absolute", True
    note = "Defined for methods whose attributions are differences of these values."

    def update(
        self,
        phi: Float[Tensor, "B P K"],
        grand: Float[Tensor, "B K"],
        null: Float[Tensor, "#B K"],
        target: Int[Tensor, " B"],
    ) -> None:
        """Add images; ``target`` is the class each is explained for."""
        gap = efficiency_gap(phi.double(), grand.double(), null.double())
        gaps = torch.stack([gap, gap.abs()], dim=1)  # (B, 2, K)
        others = torch.nn.functional.one_hot(target, gap.shape[1]).unsqueeze(1) == 0
        parts = [gaps.masked_fill(absent, torch.nan).nanmean(dim=2) for absent in (others, ~others)]
        self.rows.append(torch.cat(parts, dim=1))

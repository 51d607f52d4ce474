"""How far attributions are from the total that they should add up to."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.shapley.efficiency import efficiency_gap


class EfficiencyGap(PerImage):
    """Signed and absolute efficiency gap in value units, for the target class and as the mean over the other classes.

    Signed gaps of different images cancel in the mean: a mean near zero shows that there is no bias, not that there is
    no gap.

    Example:
        >>> metric = EfficiencyGap()
        >>> metric.update(  # class 0 should add up to 1 and adds up to 0.5; class 1 has no gap
        ...     phi=torch.tensor([[[0.25, 1.0], [0.25, 0.0]]]),
        ...     grand=torch.tensor([[1.0, 1.0]]),
        ...     null=torch.zeros(1, 2),
        ...     target=torch.tensor([0]),
        ... )
        >>> metric.compute()
        {'target': 0.5, 'target_absolute': 0.5, 'others': 0.0, 'others_absolute': 0.0}
    """

    columns = ("target", "target_absolute", "others", "others_absolute")
    higher_is_better = False
    feed, main_column, needs_units = "totals", "target_absolute", True
    note = "It is defined for methods whose attributions are differences of these values."

    def update(
        self,
        phi: Float[Tensor, "B P K"],
        grand: Float[Tensor, "B K"],
        null: Float[Tensor, "#B K"],
        target: Int[Tensor, " B"],
    ) -> None:
        """Add images.

        Args:
            phi: Attributions of all classes.
            grand: Value of the grand coalition.
            null: Value of the null coalition; one row if it does not depend on the image.
            target: Class that each image is explained for.
        """
        gap = efficiency_gap(phi.double(), grand.double(), null.double())
        gaps = torch.stack([gap, gap.abs()], dim=1)  # (B, 2, K)
        others = torch.nn.functional.one_hot(target, gap.shape[1]).unsqueeze(1) == 0
        parts = [gaps.masked_fill(absent, torch.nan).nanmean(dim=2) for absent in (others, ~others)]
        self.rows.append(torch.cat(parts, dim=1))

"""How far attributions are from reference Shapley values."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fastshap_lab.metrics.bootstrap import bootstrap_sums
from fastshap_lab.metrics.correlation import cosine, pearson, spearman
from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.shapley.efficiency import equal_split

# Columns of the per-image sums that every measure below is made from.
_COLUMNS = ("count", "error", "value", "square", "equal_error", "cosine", "cosines", "spearman", "spearmans")


def shapley_error_sums(
    phi: Float[Tensor, "B P K"],
    reference: Float[Tensor, "B P K"],
    grand: Float[Tensor, "B K"],
    null: Float[Tensor, "#B K"],
) -> Float[Tensor, "B K columns"]:
    """Return sums over players, in float64, from which every error measure follows by adding up images and classes.

    Cosine and Spearman correlation are per image and class; where one is undefined (constant values) it adds nothing
    to its sum nor to its count.
    """
    phi, reference = phi.double(), reference.double()
    equal = equal_split(grand, null, phi.shape[1]).double()
    cosines, spearmans = cosine(phi, reference), spearman(phi, reference)
    return torch.stack(
        [
            torch.full_like(cosines, phi.shape[1]),
            (phi - reference).square().sum(dim=1),
            reference.sum(dim=1),
            reference.square().sum(dim=1),
            (equal - reference).square().sum(dim=1),
            cosines.nan_to_num(0),
            (~cosines.isnan()).double(),
            spearmans.nan_to_num(0),
            (~spearmans.isnan()).double(),
        ],
        dim=-1,
    )


def shapley_errors(sums: Float[Tensor, "*shape columns"]) -> dict[str, Float[Tensor, "*shape"]]:
    """Return the error measures that go with added-up ``shapley_error_sums``.

    ``r2`` pooled over images, players and classes; ``r2_beyond_equal``, the same with the equal split in place of the
    mean, since giving every player the same share has a high ``r2`` already; mean ``cosine`` and ``spearman``; ``mse``,
    in squared value units.
    """
    part = dict(zip(_COLUMNS, sums.unbind(dim=-1), strict=True))
    total = part["square"] - part["value"].square() / part["count"]
    return {
        "r2": 1 - part["error"] / total,
        "r2_beyond_equal": 1 - part["error"] / part["equal_error"],
        "cosine": part["cosine"] / part["cosines"],
        "spearman": part["spearman"] / part["spearmans"],
        "mse": part["error"] / part["count"],
    }


class ShapleyError(Metric):
    """Error against reference Shapley values: of each image's target class, of the others, and of all.

    Reference: methods.md of this project's docs; Covert et al., arXiv:2206.05282, section 5, for the split of classes.
    """

    higher_is_better = None
    full_state_update = False
    target: list[Tensor]
    others: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("target", [], dist_reduce_fx="cat")
        self.add_state("others", [], dist_reduce_fx="cat")

    def update(
        self,
        phi: Float[Tensor, "B P K"],
        reference: Float[Tensor, "B P K"],
        grand: Float[Tensor, "B K"],
        null: Float[Tensor, "#B K"],
        target: Int[Tensor, " B"],
    ) -> None:
        """Add images; ``target`` is the class each is explained for."""
        sums = shapley_error_sums(phi, reference, grand, null)
        chosen = torch.nn.functional.one_hot(target, phi.shape[2]).unsqueeze(-1)
        self.target.append((sums * chosen).sum(dim=1))
        self.others.append((sums * (1 - chosen)).sum(dim=1))

    def compute(self) -> dict[str, dict[str, float]]:
        """Return each measure for ``target``, ``others`` and ``all`` classes."""
        return {
            part: {name: value.item() for name, value in shapley_errors(sums.sum(dim=0)).items()}
            for part, sums in self._parts().items()
        }

    def per_image(self) -> dict[str, dict[str, Float[Tensor, " N"]]]:
        """Return each measure over the players and classes of one image at a time, in the order of the updates."""
        return {part: shapley_errors(sums) for part, sums in self._parts().items()}

    def intervals(self, resamples: int, seed: int = 0) -> dict[str, dict[str, tuple[float, float]]]:
        """Return 95 % percentile intervals from resampling images."""
        intervals: dict[str, dict[str, tuple[float, float]]] = {}
        for part, sums in self._parts().items():
            measures = shapley_errors(bootstrap_sums(sums, resamples, seed))
            bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
            intervals[part] = {name: tuple(value.quantile(bounds).tolist()) for name, value in measures.items()}
        return intervals

    def _parts(self) -> dict[str, Tensor]:
        target, others = (torch.as_tensor(dim_zero_cat(state)).cpu() for state in (self.target, self.others))
        return {"target": target, "others": others, "all": target + others}


_NOTE = "Of as many of the images as have references (references.test)."


class ShapleyCorrelation(PerImage):
    """Agreement of attributions with reference Shapley values over players, whatever the attributions' unit.

    In [-1, 1]; of the target, and of the other classes explained, averaged over those where it is defined. Constant
    attributions have neither correlation.
    """

    columns = ("pearson", "spearman", "cosine", "others_pearson", "others_spearman", "others_cosine")
    higher_is_better = True
    feed, note = "references", _NOTE

    def update(self, phi: Float[Tensor, "B P E"], reference: Float[Tensor, "B P E"]) -> None:
        """Add images; both for the classes explained, the target first."""
        phi, reference = phi.double(), reference.double()
        measures = torch.stack([measure(phi, reference) for measure in (pearson, spearman, cosine)], dim=1)
        parts = [measures[:, :, 0]]
        if measures.shape[2] > 1:
            parts.append(measures[:, :, 1:].nanmean(dim=2))
        self.rows.append(torch.cat(parts, dim=1))


class ShapleyDistance(PerImage):
    """Euclidean distance of attributions from reference Shapley values, over players, in units of the value.

    Of the target, and of the other classes explained, averaged; ``normalized``: once the attributions are made to add
    up, each by the same amount, to what the reference adds up to.
    """

    columns = ("target", "target_normalized", "others", "others_normalized")
    higher_is_better = False
    feed, needs_units = "references", True
    note = f"{_NOTE} Defined for methods whose attributions are differences of these values."

    def update(self, phi: Float[Tensor, "B P E"], reference: Float[Tensor, "B P E"]) -> None:
        """Add images; both for the classes explained, the target first."""
        difference = phi.double() - reference.double()
        normalized = difference - difference.mean(dim=1, keepdim=True)
        distances = torch.stack([each.square().sum(dim=1).sqrt() for each in (difference, normalized)], dim=1)
        parts = [distances[:, :, 0]]
        if distances.shape[2] > 1:
            parts.append(distances[:, :, 1:].nanmean(dim=2))
        self.rows.append(torch.cat(parts, dim=1))

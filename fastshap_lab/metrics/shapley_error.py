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

# Columns of the sums, from which all measures below are computed.
_COLUMNS = ("count", "error", "value", "square", "equal_error", "cosine", "cosines", "spearman", "spearmans")


def shapley_error_sums(
    phi: Float[Tensor, "B P K"],
    reference: Float[Tensor, "B P K"],
    grand: Float[Tensor, "B K"],
    null: Float[Tensor, "#B K"],
) -> Float[Tensor, "B K columns"]:
    """Return sums over players, in float64; adding them over images and classes gives the input of ``shapley_errors``.

    Cosine similarity and Spearman correlation are per image and class; where one is undefined because values are
    constant, it adds nothing to its sum or its count.

    Args:
        phi: Attributions of all classes.
        reference: Reference Shapley values.
        grand: Value of the grand coalition.
        null: Value of the null coalition; one row if it does not depend on the image.

    Example:
        >>> reference = torch.tensor([[[3.0], [1.0]]])
        >>> sums = shapley_error_sums(reference + 1, reference, torch.tensor([[4.0]]), torch.zeros(1, 1))
        >>> sums.shape, sums[0, 0, :2].tolist()  # number of players, sum of squared errors
        (torch.Size([1, 1, 9]), [2.0, 2.0])
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
    """Return the error measures from sums of ``shapley_error_sums``.

    ``r2`` is pooled over images, players and classes. ``r2_beyond_equal`` is the same with the equal split in place of
    the mean, because giving every player the same share already has a high ``r2``. ``cosine`` and ``spearman`` are
    means over images and classes. ``mse`` is in squared value units.

    Example:
        >>> reference = torch.tensor([[[3.0], [1.0]]])
        >>> sums = shapley_error_sums(reference + 1, reference, torch.tensor([[4.0]]), torch.zeros(1, 1))
        >>> errors = shapley_errors(sums.sum(dim=(0, 1)))
        >>> errors["mse"].item(), errors["r2"].item()
        (1.0, 0.0)
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
    """Errors against reference Shapley values for each image's target class, for the other classes, and for all.

    Reference: docs/methods.md; Covert et al., arXiv:2206.05282, section 5, for the split of classes.

    Example:
        >>> reference = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]])
        >>> metric = ShapleyError()
        >>> metric.update(reference + 1, reference, torch.full((1, 2), 4.0), torch.zeros(1, 2), torch.tensor([0]))
        >>> metric.compute()["target"]["mse"]
        1.0
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
        """Add images.

        Args:
            phi: Attributions of all classes.
            reference: Reference Shapley values.
            grand: Value of the grand coalition.
            null: Value of the null coalition; one row if it does not depend on the image.
            target: Class that each image is explained for.
        """
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
        """Return each measure of each image on its own, over players and classes, in the order of the updates."""
        return {part: shapley_errors(sums) for part, sums in self._parts().items()}

    def intervals(self, resamples: int, seed: int = 0) -> dict[str, dict[str, tuple[float, float]]]:
        """Return 95 % percentile intervals from resampling images, as lower and upper bounds.

        Args:
            resamples: Number of bootstrap resamples.
            seed: Seed for drawing images.
        """
        intervals: dict[str, dict[str, tuple[float, float]]] = {}
        for part, sums in self._parts().items():
            measures = shapley_errors(bootstrap_sums(sums, resamples, seed))
            bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
            intervals[part] = {name: tuple(value.quantile(bounds).tolist()) for name, value in measures.items()}
        return intervals

    def _parts(self) -> dict[str, Tensor]:
        target, others = (torch.as_tensor(dim_zero_cat(state)).cpu() for state in (self.target, self.others))
        return {"target": target, "others": others, "all": target + others}


_NOTE = "It covers the images that have reference values (references.test)."


class ShapleyCorrelation(PerImage):
    """Agreement of attributions with reference Shapley values over players, whatever the attributions' unit.

    The measures are in [-1, 1]. They are for the target class and, as ``others_…``, means over the other explained
    classes for which they are defined. The correlations are undefined for constant attributions.

    Example:
        >>> metric = ShapleyCorrelation()
        >>> metric.update(torch.tensor([[[10.0], [20.0], [30.0]]]), torch.tensor([[[1.0], [2.0], [3.0]]]))
        >>> {name: round(value, 3) for name, value in metric.compute().items()}
        {'pearson': 1.0, 'spearman': 1.0, 'cosine': 1.0}
    """

    columns = ("pearson", "spearman", "cosine", "others_pearson", "others_spearman", "others_cosine")
    higher_is_better = True
    feed, note = "references", _NOTE

    def update(self, phi: Float[Tensor, "B P E"], reference: Float[Tensor, "B P E"]) -> None:
        """Add images.

        Args:
            phi: Attributions for the E explained classes, the target first.
            reference: Reference Shapley values of the same classes.
        """
        phi, reference = phi.double(), reference.double()
        measures = torch.stack([measure(phi, reference) for measure in (pearson, spearman, cosine)], dim=1)
        parts = [measures[:, :, 0]]
        if measures.shape[2] > 1:
            parts.append(measures[:, :, 1:].nanmean(dim=2))
        self.rows.append(torch.cat(parts, dim=1))


class ShapleyDistance(PerImage):
    """Euclidean distance over players between attributions and reference Shapley values, in value units.

    It is for the target class and, as ``others``, the mean over the other explained classes. ``normalized`` is the
    distance after a constant is added to all attributions, so that they have the same sum as the reference.

    Example:
        >>> metric = ShapleyDistance()
        >>> metric.update(torch.tensor([[[4.0], [6.0]]]), torch.tensor([[[1.0], [2.0]]]))
        >>> {name: round(value, 4) for name, value in metric.compute().items()}  # √(3² + 4²), √(0.5² + 0.5²)
        {'target': 5.0, 'target_normalized': 0.7071}
    """

    columns = ("target", "target_normalized", "others", "others_normalized")
    higher_is_better = False
    feed, needs_units = "references", True
    note = f"{_NOTE} It is defined for methods whose attributions are differences of these values."

    def update(self, phi: Float[Tensor, "B P E"], reference: Float[Tensor, "B P E"]) -> None:
        """Add images.

        Args:
            phi: Attributions for the E explained classes, the target first.
            reference: Reference Shapley values of the same classes.
        """
        difference = phi.double() - reference.double()
        normalized = difference - difference.mean(dim=1, keepdim=True)
        distances = torch.stack([each.square().sum(dim=1).sqrt() for each in (difference, normalized)], dim=1)
        parts = [distances[:, :, 0]]
        if distances.shape[2] > 1:
            parts.append(distances[:, :, 1:].nanmean(dim=2))
        self.rows.append(torch.cat(parts, dim=1))

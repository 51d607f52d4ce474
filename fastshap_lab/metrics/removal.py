"""How a class's output changes as units of an image are deleted or inserted, the most important first."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastshap_lab.components import Count
from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.metrics.value_function import ValueFunction, values_in_chunks
from fastshap_lab.models.tasks import Multiclass, Task


def removal_curves(
    value_fn: ValueFunction,
    image: Float[Tensor, "B C H W"],
    phi: Float[Tensor, "B U E"],
    classes: Int[Tensor, "B E"],
    insert: bool,
    step: int = 1,
    max_batch: int = 256,
    task: Task | None = None,
) -> Float[Tensor, "B E measures points"]:
    """Return the task's measures of each class, then agreement, at the start and after each step, in float64.

    Units are deleted from the whole image, or inserted into the empty one, in descending order of their attribution.
    Ties are in index order; the last step may be shorter. For ``multiclass`` the measures are probability and log-odds,
    for a regression the standardized output. Agreement is 1 where the model's prediction is the one for the whole image
    (for a regression: within its tolerance), else 0. All are NaN if an attribution is NaN, which has no rank.

    Reference: Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421; Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436,
    on exclusion and inclusion.

    Args:
        value_fn: Function that returns logits, log-probabilities or the predictions of a regression for coalitions of
            units.
        image: Images.
        phi: Attributions of the U units for E classes.
        classes: The explained classes.
        insert: Whether units are inserted rather than deleted.
        step: Number of units per step.
        max_batch: Largest number of coalitions, summed over images, in one call of ``value_fn``.
        task: Task of the model; ``multiclass`` if None.

    Example:
        >>> def logits(image, coalitions):  # log-probabilities 1/2 each without unit 0, else 3/4 and 1/4
        ...     present = coalitions[..., :1]
        ...     return torch.where(present, torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])).log()
        >>> phi = torch.tensor([[[2.0], [1.0]]])
        >>> curves = removal_curves(logits, torch.rand(1, 3, 4, 4), phi, torch.tensor([[0]]), insert=False)
        >>> [round(p, 3) for p in curves[0, 0, 0].tolist()]
        [0.75, 0.5, 0.5]
    """
    task = task or Multiclass()
    num_units, explained = phi.shape[1:]
    points = -(-num_units // step) + 1
    moved = (torch.arange(points, device=phi.device) * step).clamp(max=num_units).unsqueeze(1)
    rank = phi.argsort(dim=1, descending=True, stable=True).argsort(dim=1).transpose(1, 2)
    number = torch.arange(explained * points, device=phi.device)

    def coalitions(rows: slice, part: slice) -> Tensor:
        return (rank[rows][:, number[part] // points] < moved[number[part] % points]) == insert

    outputs = values_in_chunks(value_fn, image, len(number), coalitions, max_batch).double()
    outputs = outputs.unflatten(1, (explained, points))
    chosen = classes.to(outputs.device)[:, :, None, None].expand(-1, -1, points, 1)
    measures = [each.gather(-1, chosen).squeeze(-1) for each in task.measures_of_classes(outputs).values()]
    of_each = outputs.flatten(0, 1)
    agreement = task.right(of_each, task.decide(of_each[:, -1 if insert else 0])).view_as(measures[0])
    curves = torch.stack([*measures, agreement.double()], dim=2)
    return curves.masked_fill(phi.isnan().any(dim=1).to(curves.device)[:, :, None, None], torch.nan)


def area_under_curve(curve: Float[Tensor, "*shape points"]) -> Float[Tensor, "*shape"]:
    """Return the mean height of curves by the trapezoid rule; a shorter last step counts as a full one.

    Example:
        >>> area_under_curve(torch.tensor([1.0, 0.5, 0.0])).item()
        0.5
    """
    return (curve.sum(dim=-1) - (curve[..., 0] + curve[..., -1]) / 2) / (curve.shape[-1] - 1)


class Deletion(PerImage):
    """Areas under deletion curves; with the players of a surrogate as units, this is exclusion.

    For the target these are the areas of the task's measures and of agreement: for ``multiclass`` probability, log-odds
    and top-1 agreement; for labels that do not exclude each other, agreement means that all labels agree; for a
    regression there are the standardized output and agreement within its tolerance. For the other explained classes
    these are the measures' means over classes, each class ranked by its own attributions.

    Args:
        step: Number of units per step.
        max_batch: Largest number of coalitions, summed over images, in one call of the value function.
        task: Task of the model; ``multiclass`` if None.

    Reference: see ``removal_curves``; Covert et al., ViT-Shapley, ICLR 2023, arXiv:2206.05282, section 5, for the other
    classes.

    Example:
        >>> def logits(image, coalitions):  # log-probabilities 1/2 each without unit 0, else 3/4 and 1/4
        ...     present = coalitions[..., :1]
        ...     return torch.where(present, torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])).log()
        >>> metric = Deletion()
        >>> metric.update(logits, torch.rand(1, 3, 4, 4), torch.tensor([[[2.0], [1.0]]]), torch.tensor([[0]]))
        >>> round(metric.compute()["probability"], 4)  # 0.75, 0.5, 0.5
        0.5625
    """

    higher_is_better = False
    feed = "removal"
    insert = False

    def __init__(self, step: Count = 1, max_batch: int = 256, task: Task | None = None) -> None:
        super().__init__()
        self.step, self.max_batch, self.task = step, max_batch, task or Multiclass()
        measures = self.task.class_measures
        self.columns = (*measures, "agreement", *(f"others_{name}" for name in measures))

    def update(
        self,
        value_fn: ValueFunction,
        image: Float[Tensor, "B C H W"],
        phi: Float[Tensor, "B U E"],
        classes: Int[Tensor, "B E"],
    ) -> None:
        """Add images.

        Args:
            value_fn: Value function, see ``removal_curves``.
            image: Images.
            phi: Attributions of the U units for E classes.
            classes: Explained classes, the target first.
        """
        curves = removal_curves(value_fn, image, phi, classes, self.insert, self.step, self.max_batch, self.task)
        parts = [curves[:, 0]]
        if curves.shape[1] > 1:
            parts.append(curves[:, 1:, :-1].nanmean(dim=1))
        self.rows.append(torch.cat(parts, dim=1))

    def curves(self) -> dict[str, Float[Tensor, " points"]]:
        """Return the mean curve of each column over images."""
        return dict(zip(self.columns, self._kept().nanmean(dim=0).unbind(), strict=False))

    def _rows(self) -> Float[Tensor, "N columns"]:
        return area_under_curve(self._kept())


class Insertion(Deletion):
    """Areas under insertion curves; with the players of a surrogate as units, this is inclusion.

    All else is as for ``Deletion``.

    Example:
        >>> def logits(image, coalitions):  # log-probabilities 1/2 each without unit 0, else 3/4 and 1/4
        ...     present = coalitions[..., :1]
        ...     return torch.where(present, torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])).log()
        >>> metric = Insertion()
        >>> metric.update(logits, torch.rand(1, 3, 4, 4), torch.tensor([[[2.0], [1.0]]]), torch.tensor([[0]]))
        >>> round(metric.compute()["probability"], 4)  # 0.5, 0.75, 0.75
        0.6875
    """

    higher_is_better = True
    insert = True

"""What becomes of a class when units are deleted from an image, or inserted, most important first."""

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
    """Return the task's measures of the class, and agreement, after each step, the start included, in float64.

    Units go in descending order of their attribution, ties by index, ``step`` at a time (the last step may be shorter):
    away from the whole image, or back into the empty one. Of ``multiclass``, these are probability, log-odds and top-1
    agreement; of a regression the standardized answer, and agreement within its tolerance. Agreement is 1 where
    what is predicted is what is predicted of the whole image, else 0. All are NaN for attributions with a NaN, which
    say no order.

    Reference: Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421; Jethani et al., FastSHAP, ICLR 2022,
    arXiv:2107.07436, on exclusion and inclusion.

    Args:
        value_fn: Logits, or log-probabilities, or a regression's answers, of coalitions of the units.
        image: Images.
        phi: Attributions of the units for E classes.
        classes: Which ones.
        insert: Whether units are inserted, rather than deleted.
        step: Units per step.
        max_batch: Most images times coalitions that the value function is asked for at once.
        task: What its values mean; one of K classes if None.
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
    """Return the mean height by the trapezoid rule; a shorter last step counts like the others."""
    return (curve.sum(dim=-1) - (curve[..., 0] + curve[..., -1]) / 2) / (curve.shape[-1] - 1)


class Deletion(PerImage):
    """Areas under the curves of deletion, which is exclusion when units are the players of a surrogate.

    Of the target its probability, log-odds and top-1 agreement; of the other classes explained probability and
    log-odds, each class under its own attributions, averaged over them. Of labels that do not exclude each other,
    agreement is of all of them; of a regression there is the standardized answer, and agreement within its
    tolerance.

    Args:
        step: Units per step.
        max_batch: Most images times coalitions that the value function is asked for at once.
        task: What the values mean; one of K classes if None.

    Reference: see ``removal_curves``; Covert et al., ViT-Shapley, ICLR 2023, arXiv:2206.05282, section 5, on the
    classes that are not the target.
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
        """Add images; arguments as for ``removal_curves``, the first class being the target."""
        curves = removal_curves(value_fn, image, phi, classes, self.insert, self.step, self.max_batch, self.task)
        parts = [curves[:, 0]]
        if curves.shape[1] > 1:
            parts.append(curves[:, 1:, :-1].nanmean(dim=1))
        self.rows.append(torch.cat(parts, dim=1))

    def curves(self) -> dict[str, Float[Tensor, " points"]]:
        """Return the mean curves over images."""
        return dict(zip(self.columns, self._kept().nanmean(dim=0).unbind(), strict=False))

    def _rows(self) -> Float[Tensor, "N columns"]:
        return area_under_curve(self._kept())


class Insertion(Deletion):
    """Areas under the curves of insertion, which is inclusion when units are the players of a surrogate.

    Otherwise as ``Deletion``.
    """

    higher_is_better = True
    insert = True

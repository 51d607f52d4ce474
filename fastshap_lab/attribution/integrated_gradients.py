"""Integrated gradients."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.base import (
    AttributionMethod,
    Kind,
    baseline_colour,
    colour_scale,
    one_of,
    restoring,
    target_logits,
)
from fastshap_lab.attribution.gradients import pixel_gradients
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.models.targets import Targets, class_of_each

Rule = Literal["gauss_legendre", "trapezoid"]


def quadrature(rule: Rule, steps: int) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return N = ``steps`` points in [0, 1] and their weights, which sum to one, both float64.

    Args:
        rule: Quadrature rule: ``gauss_legendre`` or ``trapezoid``.
        steps: Number of points; at least 2 for ``trapezoid``.

    Example:
        >>> points, weights = quadrature("trapezoid", 3)
        >>> points.tolist(), weights.tolist()
        ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    if rule == "gauss_legendre":
        nodes, shares = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(shares / 2)
    points = torch.linspace(0, 1, steps, dtype=torch.float64)
    weights = torch.full_like(points, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return points, weights


class IntegratedGradients(AttributionMethod):
    """The mean pixel gradient on a straight path from a baseline to the image, times the change of the pixel.

    Channels are summed. A map adds up to the change of the target's logit along the path, up to the error of the
    quadrature, which ``completeness_gap`` returns.

    Reference: Sundararajan et al., Axiomatic attribution for deep networks, ICML 2017, arXiv:1703.01365, section 3.

    Args:
        model: Model that maps images to logits.
        steps: Number of points on the path.
        rule: Quadrature rule: ``gauss_legendre`` or ``trapezoid``.
        baseline: Colour at which the path starts, one number per channel in units of the input; by default the model's
            mean colour.
        max_batch: Number of points per pass.

    Raises:
        UserError: The rule is unknown, or has too few steps.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> maps = IntegratedGradients(model, steps=4).attribute(torch.tensor([[[[2.0, 6.0]], [[1.0, 1.0]]]]), target=0)
        >>> maps.round(decimals=3).tolist()  # they add up to the logit, 4
        [[[1.0, 3.0]]]
    """

    kind: ClassVar[Kind] = "attribution"
    unit = "logits"

    def __init__(
        self,
        model: nn.Module,
        steps: int = 50,
        rule: Rule = "gauss_legendre",
        baseline: Sequence[float] | None = None,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, max_batch)
        self.steps, self.rule, self.baseline = steps, one_of("rule", rule, Rule), baseline
        if steps < (2 if rule == "trapezoid" else 1):
            raise UserError(f"IntegratedGradients: steps={steps}: must be at least 1, or 2 with rule=trapezoid")

    @torch.no_grad()
    def completeness_gap(
        self, image: Float[Tensor, "B C H W"], maps: Float[Tensor, "B H W"], target: Targets
    ) -> Float[Tensor, " B"]:
        """Return the logit's change from the baseline to the image minus the map's sum; positive if that is small.

        Args:
            image: Images as the model takes them.
            maps: Maps of these images, from ``attribute``.
            target: Class that the maps explain, one for all images or one for each.
        """
        with restoring(self.model), torch.no_grad():
            start = baseline_colour(self.model, image, self.baseline).expand_as(image[:1])
            classes = class_of_each(target, len(image)).to(image.device)
            ends = torch.cat([self.model(part) for part in image.split(self.max_batch)])
            change = target_logits(ends - self.model(start), classes)
        return change - maps.sum(dim=(1, 2))

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return torch.stack([self._explain(*one) for one in zip(image.split(1), target.split(1), strict=True)])

    def _explain(self, image: Tensor, target: Tensor) -> Tensor:
        start = baseline_colour(self.model, image, self.baseline)
        points, weights = (each.to(image).view(-1, 1, 1, 1) for each in quadrature(self.rule, self.steps))
        mean = torch.zeros_like(image[0])
        for point, weight in zip(points.split(self.max_batch), weights.split(self.max_batch), strict=True):
            copies = start + point * (image - start)
            mean += (weight * pixel_gradients(self.model, copies, target.expand(len(copies)))).sum(dim=0)
        return ((image[0] - start) / colour_scale(self.model, image) * mean).sum(dim=0)

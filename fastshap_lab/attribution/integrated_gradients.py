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
    """Return points in [0, 1] and their weights, which sum to one, in float64."""
    if rule == "gauss_legendre":
        nodes, shares = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(shares / 2)
    points = torch.linspace(0, 1, steps, dtype=torch.float64)
    weights = torch.full_like(points, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return points, weights


class IntegratedGradients(AttributionMethod):
    """Gradients by the pixels averaged on the straight way from a baseline, times the change; channels summed.

    Up to the quadrature's error, a map adds up to what the target's logit gains on the way; ``completeness_gap`` says
    what it misses.

    Reference: Sundararajan et al., Axiomatic attribution for deep networks, ICML 2017, arXiv:1703.01365, section 3.

    Args:
        model: Takes images to logits.
        steps: Points on the way.
        rule: Quadrature: ``gauss_legendre`` or ``trapezoid``.
        baseline: Colour the way starts at, in units of the input; by default the model's mean colour.
        max_batch: Points per pass.
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
            raise UserError(f"IntegratedGradients: steps={steps}: at least 1, with rule=trapezoid 2")

    @torch.no_grad()
    def completeness_gap(
        self, image: Float[Tensor, "B C H W"], maps: Float[Tensor, "B H W"], target: Targets
    ) -> Float[Tensor, " B"]:
        """Return what maps miss of the change of the logit from the baseline to each image: positive if too little.

        Args:
            image: As the model takes it.
            maps: Its maps, from ``attribute``.
            target: The class they explain, of all images or of each.
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

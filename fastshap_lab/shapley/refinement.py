"""Refinement: an explainer's answer as the prior, evaluations of the game as the evidence."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from fastshap_lab.shapley.designs import num_pairs
from fastshap_lab.shapley.estimators.base import Estimate
from fastshap_lab.shapley.estimators.regression import KernelSHAP

_RIDGES = (1e-3, *(2.0**power for power in range(-1, 12)))


@dataclass(frozen=True)
class Refinement:
    """What references have told about an explainer: how much its answer counts, and how far a refined one may be off.

    Attributes:
        evaluations: Of each image, ascending: where the rest was chosen. Between them, and beyond, it is interpolated.
        ridge: How much the prior counts, see ``PairRegression``.
        target_factor: What the standard errors of each image's predicted class are multiplied by.
        others_factor: What those of the other classes are multiplied by.
    """

    evaluations: Sequence[int]
    ridge: Sequence[float]
    target_factor: Sequence[float]
    others_factor: Sequence[float]

    def __call__(self, estimator: KernelSHAP, prior: Float[Tensor, "B P K"], target: Int[Tensor, " B"]) -> Estimate:
        """Return the refined values and their standard errors, as the estimator's evaluations so far allow.

        Args:
            estimator: Holds the evidence.
            prior: The explainer's values.
            target: The predicted class of each image.
        """
        ridge, of_target, of_others = (
            self._at(estimator.evaluations, values) for values in (self.ridge, self.target_factor, self.others_factor)
        )
        estimate = estimator.refine(prior, ridge)
        factor = torch.where(_is_target(target, prior), of_target, of_others)
        return Estimate(estimate.phi, estimate.stderr * factor, estimate.evaluations)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which the constructor takes."""
        return {name: list(values) for name, values in asdict(self).items()}

    def _at(self, evaluations: int, values: Sequence[float]) -> float:
        return float(np.exp(np.interp(np.log(max(evaluations, 1)), np.log(self.evaluations), np.log(values))))


def calibrated_refinement(
    estimator: KernelSHAP,
    prior: Float[Tensor, "B P K"],
    reference: Estimate,
    target: Int[Tensor, " B"],
    most: int,
) -> Refinement:
    """Return the refinement that comes closest to references, with intervals that hold for them.

    For every power of two up to ``most`` evaluations, the ridge with the least squared error over images, players and
    classes; then, for the predicted class and the others apart, the factor with which 95 % of the references lie
    within 1.96 standard errors, the references' own counted in.

    Args:
        estimator: Fresh, of the reference images; a seed other than the references', or its errors were theirs.
        prior: The explainer's values of them.
        reference: Exact values, or much better known than those to be refined.
        target: The predicted class of each image.
        most: Evaluations of each image to spend.
    """
    truth, noise = reference.phi, reference.stderr.square()
    is_target = _is_target(target, prior).expand_as(truth)
    rows = []
    highest = min(most, 2 * num_pairs(estimator.num_players))
    for budget in (2**power for power in range(1, highest.bit_length())):
        estimator.advance(budget - estimator.granted)
        estimates = {ridge: estimator.refine(prior, ridge) for ridge in _RIDGES}
        ridge = min(estimates, key=lambda one: float((estimates[one].phi - truth).square().sum()))
        best = estimates[ridge]
        error, spread = (best.phi - truth).square(), best.stderr.square()
        factors = [_factor(error[part], spread[part], noise[part]) for part in (is_target, ~is_target)]
        rows.append((budget, ridge, *factors))
    return Refinement(*zip(*rows, strict=True))


def _factor(error: Tensor, spread: Tensor, noise: Tensor) -> float:
    """Return by what standard errors must grow for 95 % of the squared errors to lie within; arguments are squares."""
    low, high = 1e-3, 1e3
    for _ in range(50):  # the share only grows with the factor
        middle = (low * high) ** 0.5
        inside = (error <= 1.96**2 * (middle**2 * spread + noise)).double().mean()
        low, high = (low, middle) if inside >= 0.95 else (middle, high)
    return high


def _is_target(target: Int[Tensor, " B"], prior: Float[Tensor, "B P K"]) -> Tensor:
    return one_hot(target.cpu(), prior.shape[2]).bool().unsqueeze(1)  # (B, 1, K)

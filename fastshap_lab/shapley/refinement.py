"""Refinement: Shapley values from an explainer's answer and evaluations of the game together."""

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
from fastshap_lab.shapley.estimators.kriging import Kriging

# Beyond this number of evaluations an explainer's answer changes little, and calibration stops.
_MAX_EVALUATIONS = 2048

# Candidates for the relative variance of an explainer's error, see ``PairKriging.fit_with``.
_ERRORS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)


@dataclass(frozen=True)
class Refinement:
    """Settings, calibrated by reference values, of the combination of an explainer's answer with evaluations.

    They say how large the explainer's error is, and by which factors the standard errors must be multiplied. They are
    listed for some numbers of evaluations, interpolated between these, and constant beyond the first and the last. The
    defaults serve explainers without references: they leave the posterior's standard errors as they are.

    Attributes:
        evaluations: Numbers of evaluations of each input, ascending.
        error: Relative variance of the explainer's error at each of these numbers, see ``PairKriging.fit_with``.
        target_factor: Factor of the standard errors of each input's predicted class, at each of these numbers.
        others_factor: Factor of the standard errors of the other classes, at each of these numbers.

    Example:
        Of three players, one pair is evaluated, and the answer is right: the refined values stay close to it.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = Kriging(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(2)
        >>> answer = torch.tensor([2 / 3, 1 / 6, 1 / 6], dtype=torch.float64).view(1, 3, 1)
        >>> Refinement(error=(0.003,))(estimator, answer, target=torch.tensor([0])).phi.flatten().round(decimals=1)
        tensor([0.7000, 0.2000, 0.2000], dtype=torch.float64)
    """

    evaluations: Sequence[int] = (2,)
    error: Sequence[float] = (0.3,)
    target_factor: Sequence[float] = (1.0,)
    others_factor: Sequence[float] = (1.0,)

    def __call__(self, estimator: Kriging, answer: Float[Tensor, "B P K"], target: Int[Tensor, " B"]) -> Estimate:
        """Return the refined values and their standard errors after the estimator's evaluations so far.

        Args:
            estimator: The estimator that has made the evaluations.
            answer: The explainer's values.
            target: The predicted class of each input, int64.
        """
        error, target_factor, others_factor = (
            self._at(estimator.evaluations, values) for values in (self.error, self.target_factor, self.others_factor)
        )
        (estimate,) = estimator.refine(answer, [error])
        factor = torch.where(_is_target(target, answer), target_factor, others_factor)
        return Estimate(estimate.phi, estimate.stderr * factor, estimate.evaluations)

    def to_json(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {name: list(values) for name, values in asdict(self).items()}

    def _at(self, evaluations: int, values: Sequence[float]) -> float:
        return float(np.exp(np.interp(np.log(max(evaluations, 1)), np.log(self.evaluations), np.log(values))))


def calibrated_refinement(
    estimator: Kriging,
    answer: Float[Tensor, "B P K"],
    reference: Estimate,
    target: Int[Tensor, " B"],
    max_evaluations: int,
) -> Refinement:
    """Return the refinement that comes closest to reference values, with intervals that cover them.

    It has an entry for every power of two up to ``max_evaluations`` and 2,048. An entry holds the relative variance of
    the explainer's error with which the refined values have the least squared error over inputs, players and classes.
    It also holds, for the predicted class and for the others, the factor by which standard errors must be multiplied
    so that 95 % of the reference values lie within 1.96 of them; the references' own standard errors are allowed for.

    Args:
        estimator: An estimator of the reference inputs without evaluations. Its seed must differ from that of the
            references, whose errors would otherwise be the same as its own.
        answer: The explainer's values for the reference inputs.
        reference: Exact values of the reference inputs, or values far more accurate than those to be refined.
        target: The predicted class of each input, int64.
        max_evaluations: Largest number of evaluations to spend on each input.

    Example:
        An answer that equals the reference gets the smallest of the candidates for its error.

        >>> from fastshap_lab.shapley import FunctionGame, shapley_values
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> game, inputs = FunctionGame(gloves, 3), torch.zeros(1, 1)
        >>> reference = shapley_values(game, inputs, "exact", budget=6)
        >>> calibrated_refinement(Kriging(game, inputs), reference.phi, reference, torch.tensor([0]), 4).error
        (0.003, 0.003)
    """
    truth, noise = reference.phi, reference.stderr.square()
    is_target = _is_target(target, answer).expand_as(truth)
    rows = []
    # With all pairs the values are exact, and there is nothing to calibrate.
    highest = min(max_evaluations, 2 * num_pairs(estimator.num_players) - 1, _MAX_EVALUATIONS)
    for budget in (2**power for power in range(1, max(2, highest).bit_length())):
        estimator.advance(budget - estimator.granted)
        estimates = estimator.refine(answer, _ERRORS)
        sums = torch.stack([(one.phi - truth).square().sum() for one in estimates])
        chosen = int(sums.argmin())
        wrong, spread = (estimates[chosen].phi - truth).square(), estimates[chosen].stderr.square()
        factors = [_factor(wrong[part], spread[part], noise[part]) for part in (is_target, ~is_target)]
        rows.append((budget, _ERRORS[chosen], *factors))
    return Refinement(*zip(*rows, strict=True))


def _factor(error: Tensor, spread: Tensor, noise: Tensor) -> float:
    """Return the factor of the standard errors with which 95 % of the errors lie within 1.96 standard errors.

    Args:
        error: Squared errors of the refined values.
        spread: Squared standard errors of the refined values, in the same shape.
        noise: Squared standard errors of the reference values, in the same shape.
    """
    if not error.numel():  # there is only one class, and so no other one
        return 1.0
    low, high = 1e-3, 1e3
    for _ in range(50):  # bisection: the share inside grows with the factor
        middle = (low * high) ** 0.5
        inside = (error <= 1.96**2 * (middle**2 * spread + noise)).double().mean()
        low, high = (low, middle) if inside >= 0.95 else (middle, high)
    return high


def _is_target(target: Int[Tensor, " B"], values: Float[Tensor, "B P K"]) -> Tensor:
    return one_hot(target.cpu(), values.shape[2]).bool().unsqueeze(1)  # (B, 1, K)

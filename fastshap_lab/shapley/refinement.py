"""Refinement: an explainer's answer and evaluations of the game, each as evidence for the other."""

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

# Evaluations beyond which an explainer's answer changes little, so that nothing more is told about it.
_MAX_EVALUATIONS = 2048

# Candidates for the variance of an explainer's error, relative to its values' spread.
_ERRORS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)


@dataclass(frozen=True)
class Refinement:
    """How far an explainer's answer is trusted beside evaluations, and how far the two together may be off.

    What references have told of an explainer is stated for some numbers of evaluations; between them it is
    interpolated, and the last holds beyond. The defaults are for explainers without references: standard errors are
    then the posterior's as they are.

    Attributes:
        evaluations: Evaluations of each input, ascending.
        error: Variance of the explainer's error relative to its values' spread, see ``PairKriging.fit_with``.
        target_factor: Factor of the standard errors of each input's predicted class.
        others_factor: Factor of those of the other classes.

    Example:
        >>> refinement = Refinement(evaluations=(2, 512), error=(0.1, 0.5))
        >>> refinement.to_json()["error"]
        [0.1, 0.5]
    """

    evaluations: Sequence[int] = (2,)
    error: Sequence[float] = (0.3,)
    target_factor: Sequence[float] = (1.0,)
    others_factor: Sequence[float] = (1.0,)

    def __call__(self, estimator: Kriging, answer: Float[Tensor, "B P K"], target: Int[Tensor, " B"]) -> Estimate:
        """Return the refined values and their standard errors, as the estimator's evaluations so far allow.

        Args:
            estimator: Holds the evaluations.
            answer: The explainer's values.
            target: The predicted class of each input.
        """
        error, of_target, of_others = (
            self._at(estimator.evaluations, values) for values in (self.error, self.target_factor, self.others_factor)
        )
        (estimate,) = estimator.refine(answer, [error])
        factor = torch.where(_is_target(target, answer), of_target, of_others)
        return Estimate(estimate.phi, estimate.stderr * factor, estimate.evaluations)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which the constructor takes."""
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
    """Return the refinement that comes closest to references, with intervals that hold for them.

    It has an entry for every power of two up to ``max_evaluations``, at most 2,048. An entry holds the explainer's
    error with which the refined values have the least squared error over inputs, players and classes. It also holds,
    for the predicted class and for the others, the factor by which standard errors are multiplied so that 95 % of the
    references lie within 1.96 of them; the references' own errors are counted in.

    Args:
        estimator: Fresh, of the reference inputs; a seed other than the references', or its errors were theirs.
        answer: The explainer's values of them.
        reference: Exact values, or much better known than those to be refined.
        target: The predicted class of each input.
        max_evaluations: Largest number of evaluations to spend on each input.

    Example:
        >>> from fastshap_lab.shapley import FunctionGame
        >>> worth = torch.tensor([[3.0], [2.0], [1.0]]).double()
        >>> game = FunctionGame(lambda inputs, present: present.double() @ worth, 3)
        >>> truth = torch.tensor([[[3.0], [2.0], [1.0]]]).double()
        >>> reference = Estimate(truth, torch.zeros_like(truth), 6)
        >>> estimator = Kriging(game, torch.zeros(1, 1))
        >>> refinement = calibrated_refinement(estimator, truth + 0.1, reference, torch.tensor([0]), 6)
        >>> list(refinement.evaluations)
        [2, 4]
    """
    truth, noise = reference.phi, reference.stderr.square()
    is_target = _is_target(target, answer).expand_as(truth)
    rows = []
    # Of all pairs, nothing is left to learn.
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
    """Return by what standard errors must grow for 95 % of the squared errors to lie within; arguments are squares."""
    if not error.numel():  # of a single class there are no others
        return 1.0
    low, high = 1e-3, 1e3
    for _ in range(50):  # the share only grows with the factor
        middle = (low * high) ** 0.5
        inside = (error <= 1.96**2 * (middle**2 * spread + noise)).double().mean()
        low, high = (low, middle) if inside >= 0.95 else (middle, high)
    return high


def _is_target(target: Int[Tensor, " B"], values: Float[Tensor, "B P K"]) -> Tensor:
    return one_hot(target.cpu(), values.shape[2]).bool().unsqueeze(1)  # (B, 1, K)

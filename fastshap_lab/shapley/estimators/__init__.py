"""Estimators of Shapley values, one per file, and ``shapley_values``, which runs one to a budget or a tolerance."""

from collections.abc import Callable

from jaxtyping import Shaped
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.estimators.base import Estimate, Estimator, SequentialEstimator
from fastshap_lab.shapley.estimators.exact import Exact, exact_coefficients, exact_shapley_values
from fastshap_lab.shapley.estimators.kriging import (
    ADDITIVITIES,
    INTERACTIONS,
    MAX_PAIRS,
    Kriging,
    PairKriging,
    mean_products,
    order_variances,
    size_covariances,
)
from fastshap_lab.shapley.estimators.pairs import PairEstimator
from fastshap_lab.shapley.estimators.permutation import Permutation, arrivals, marginal_contributions
from fastshap_lab.shapley.estimators.regression import KernelSHAP, LeverageSHAP, PairRegression
from fastshap_lab.shapley.estimators.stratified import Stratified
from fastshap_lab.shapley.game import Game

__all__ = [
    "ADDITIVITIES",
    "ESTIMATORS",
    "INTERACTIONS",
    "MAX_PAIRS",
    "Estimate",
    "Estimator",
    "Exact",
    "KernelSHAP",
    "Kriging",
    "LeverageSHAP",
    "PairEstimator",
    "PairKriging",
    "PairRegression",
    "Permutation",
    "SequentialEstimator",
    "Stratified",
    "arrivals",
    "exact_coefficients",
    "exact_shapley_values",
    "marginal_contributions",
    "mean_products",
    "order_variances",
    "relative_error",
    "shapley_values",
    "size_covariances",
]

ESTIMATORS: dict[str, type[Estimator]] = {
    "exact": Exact,
    "kernel_shap": KernelSHAP,
    "kriging": Kriging,
    "leverage": LeverageSHAP,
    "permutation": Permutation,
    "stratified": Stratified,
}

# Number of evaluations per player before a tolerance is first checked; each further check comes at twice as many.
_FIRST_LOOK = 16


def shapley_values(
    game: Game,
    inputs: Shaped[Tensor, "B ..."],
    estimator: str = "kernel_shap",
    *,
    budget: int,
    tolerance: float | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    state: dict[str, Tensor] | None = None,
) -> Estimate:
    """Return Shapley values of a batch of inputs with their standard errors, float64 on the CPU.

    Args:
        game: The game to explain. The values of the grand and the null coalition are evaluated beside the budget.
        inputs: Inputs of the game, one per entry of the first axis.
        estimator: Entry of ``ESTIMATORS``.
        budget: Largest number of coalitions to evaluate for each input.
        tolerance: Relative error at which to stop before the budget is spent, see ``relative_error``; None spends all.
        seed: Seed for drawing coalitions.
        progress: Called after each round with the number of evaluations of each input so far.
        state: State of the run, a dictionary. A run continues from it unless it is empty. It is updated after each
            round, before ``progress`` is called, so that it can be saved there and passed in again later.

    Raises:
        UserError: The estimator is unknown, the budget or the tolerance is not positive, the game or the budget is too
            large for the estimator, or the state belongs to another run.

    Example:
        Two players are worth 1 and 2 alone, and 5 together.

        >>> import torch
        >>> from fastshap_lab.shapley import FunctionGame
        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> estimate = shapley_values(FunctionGame(worth, 2), torch.zeros(1, 1), "kernel_shap", budget=2)
        >>> estimate.phi.flatten()
        tensor([2., 3.], dtype=torch.float64)
    """
    if estimator not in ESTIMATORS:
        raise UserError(f"estimator={estimator}: unknown; known: {', '.join(ESTIMATORS)}")
    if budget < 1:
        raise UserError(f"budget={budget}: must be 1 or more evaluations of each input")
    if tolerance is not None and not tolerance > 0:
        raise UserError(f"tolerance={tolerance}: must be above 0, a share of the range of values such as 0.05")
    ESTIMATORS[estimator].check_budget(game.num_players, budget)
    run = ESTIMATORS[estimator](game, inputs, seed)
    if state:
        run.load_state_dict(state)
    look = _FIRST_LOOK * game.num_players
    while not run.complete and run.granted < budget:
        if tolerance is not None and relative_error(run.estimate()) <= tolerance:
            break
        while look <= run.granted:
            look *= 2
        run.advance(run.next_look(game.num_players, look, budget) - run.granted)
        if state is not None:
            state.update(run.state_dict())
        if progress is not None:
            progress(run.evaluations)
    return run.estimate()


def relative_error(estimate: Estimate) -> float:
    """Return the largest relative error of a batch: a standard error divided by the range of values over the players.

    Values of one input and class are compared. The result is zero where values are exact, ``inf`` where uncertain
    values are all the same, and NaN where a standard error is.

    Args:
        estimate: Values and standard errors of a batch of inputs.

    Example:
        >>> import torch
        >>> relative_error(Estimate(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.5], [0.25]]]), evaluations=8))
        0.25
    """
    value_range = estimate.phi.amax(dim=1) - estimate.phi.amin(dim=1)  # (B, K)
    largest = estimate.stderr.amax(dim=1)
    return float((largest / value_range).where(largest != 0, 0.0).max())

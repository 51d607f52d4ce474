"""Estimators of Shapley values, one per file, and the run that takes one to a budget or a tolerance."""

from collections.abc import Callable

from jaxtyping import Shaped
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.estimators.base import Estimate, Estimator
from fastshap_lab.shapley.estimators.exact import Exact, exact_coefficients, exact_shapley_values
from fastshap_lab.shapley.estimators.kriging import Kriging, PairKriging
from fastshap_lab.shapley.estimators.permutation import Permutation
from fastshap_lab.shapley.estimators.regression import KernelSHAP, LeverageSHAP, PairRegression
from fastshap_lab.shapley.estimators.stratified import Stratified
from fastshap_lab.shapley.game import Game

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "Exact",
    "KernelSHAP",
    "Kriging",
    "LeverageSHAP",
    "PairKriging",
    "PairRegression",
    "Permutation",
    "Stratified",
    "exact_coefficients",
    "exact_shapley_values",
    "relative_error",
    "shapley_values",
]

ESTIMATORS: dict[str, type[Estimator]] = {
    "exact": Exact,
    "kernel_shap": KernelSHAP,
    "kriging": Kriging,
    "leverage": LeverageSHAP,
    "permutation": Permutation,
    "stratified": Stratified,
}

# Evaluations per player before the first look at a tolerance; the looks after it come at twice as many each.
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
        game: What to explain; grand and null are asked for beside the budget.
        inputs: What the game takes.
        estimator: Entry of ``ESTIMATORS``.
        budget: Evaluations of each input, at most.
        tolerance: Stop before the budget when no standard error is above this share of its input's and class's spread
            of values, from the smallest to the largest.
        seed: Of all draws.
        progress: Told after each round how many evaluations of each input are done.
        state: Where the run stands: continued from unless empty, and brought up to date after each round, before
            ``progress`` is told, so that what it holds can be saved and handed over again.

    Raises:
        UserError: The estimator is unknown, the budget or the tolerance is not positive, the game or the budget is too
            large for the estimator, or the state is of another run.

    Example:
        >>> import torch
        >>> from fastshap_lab.shapley import FunctionGame
        >>> worth = torch.tensor([[3.0], [2.0], [1.0]]).double()
        >>> game = FunctionGame(lambda inputs, present: present.double() @ worth, 3)
        >>> estimate = shapley_values(game, torch.zeros(1, 1), "kernel_shap", budget=6)
        >>> [round(value, 4) for value in estimate.phi.flatten().tolist()], estimate.evaluations
        ([3.0, 2.0, 1.0], 6)
    """
    if estimator not in ESTIMATORS:
        raise UserError(f"estimator={estimator}: unknown; known: {', '.join(ESTIMATORS)}")
    if budget < 1:
        raise UserError(f"budget={budget}: at least one evaluation of each input is needed")
    if tolerance is not None and not tolerance > 0:
        raise UserError(f"tolerance={tolerance}: must be above 0, a share of the spread of values such as 0.05")
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
    """Return the largest standard error relative to the spread of its input's and class's values.

    Zero where values are exact, ``inf`` where uncertain ones are all the same, NaN where an error is.

    Example:
        >>> import torch
        >>> relative_error(Estimate(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[0.5], [1.0]]]), 2))
        0.5
    """
    spread = estimate.phi.amax(dim=1) - estimate.phi.amin(dim=1)  # (B, K)
    largest = estimate.stderr.amax(dim=1)
    return float((largest / spread).where(largest != 0, 0.0).max())

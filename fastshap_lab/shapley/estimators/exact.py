"""Exact Shapley values, computed from all coalitions."""

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.coalitions import all_coalitions
from fastshap_lab.shapley.estimators.base import Estimate, SequentialEstimator
from fastshap_lab.shapley.game import Game


def exact_coefficients(num_players: int) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
    """Return the coefficients of a coalition's value in its members' and in the others' Shapley values, float64.

    Both are listed by the coalition's size 0 … P. A Shapley value is the sum over coalitions S of ``+(|S|-1)! (P-|S|)!
    / P! v(S)`` where i is in S, and of ``-|S|! (P-|S|-1)! / P! v(S)`` where it is not.

    Args:
        num_players: Number of players P.

    Example:
        >>> members, others = exact_coefficients(2)
        >>> members.tolist(), others.tolist()
        ([0.0, 0.5, 0.5], [-0.5, -0.5, 0.0])
    """
    members = [0.0] + [1 / (size * math.comb(num_players, size)) for size in range(1, num_players + 1)]
    others = [-1 / ((num_players - size) * math.comb(num_players, size)) for size in range(num_players)] + [0.0]
    return torch.tensor(members, dtype=torch.float64), torch.tensor(others, dtype=torch.float64)


class Exact(SequentialEstimator):
    """Enumerates all coalitions: the values have no meaning before the last coalition, and are exact after it.

    Reference: Shapley, A value for n-person games, 1953.

    Args:
        game: The game to explain; 2^P - 2 coalitions are evaluated beside the grand and the null coalition.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Not used, since nothing is drawn.
        max_players: Largest number of players allowed; the cost doubles with every player.

    Raises:
        UserError: The game has more than ``max_players`` players.

    Example:
        Player 0 has a left glove, players 1 and 2 a right one each; a pair of gloves is worth 1.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = Exact(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> estimator.estimate().phi.flatten()
        tensor([0.6667, 0.1667, 0.1667], dtype=torch.float64)
    """

    sample_size = 1
    _evidence = ("_sums",)

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0, max_players: int = 20) -> None:
        if game.num_players > max_players:
            raise UserError(
                f"estimator=exact: {game.num_players} players have 2^{game.num_players} coalitions; "
                f"at most {max_players} players are allowed"
            )
        super().__init__(game, inputs, seed)
        self._sums = (self.grand - self.null).unsqueeze(1).repeat(1, self.num_players, 1) / self.num_players

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the number of coalitions without the null and the grand coalition."""
        return 2**num_players - 2

    @property
    def max_samples(self) -> int:
        """Number of coalitions without the null and the grand coalition."""
        return 2**self.num_players - 2

    def estimate(self) -> Estimate:
        """Return the values; before all coalitions are evaluated they have no meaning, and their error is infinite."""
        stderr = torch.full_like(self._sums, 0.0 if self.complete else math.inf)
        return Estimate(self._sums.clone(), stderr, self.evaluations)

    def _samples(self, start: int, stop: int) -> Bool[Tensor, "N M P"]:
        return all_coalitions(self.num_players, start + 1, stop + 1).unsqueeze(1)

    def _learn(self, start: int, samples: Bool[Tensor, "N M P"], values: Float[Tensor, "B N M K"]) -> None:
        coalitions = samples.squeeze(1)
        sizes = coalitions.sum(dim=1, keepdim=True)
        members, others = exact_coefficients(self.num_players)
        coefficients = torch.where(coalitions, members[sizes], others[sizes])  # (N, P)
        self._sums = self._sums + coefficients.T @ values.squeeze(2)


def exact_shapley_values(game: Game, inputs: Shaped[Tensor, "B ..."], max_players: int = 16) -> Float[Tensor, "B P K"]:
    """Return the exact Shapley values of every player for every class, float64 on the CPU.

    Args:
        game: The game to explain; all 2^P coalitions are evaluated.
        inputs: Inputs of the game, one per entry of the first axis.
        max_players: Largest number of players allowed; the cost doubles with every player.

    Raises:
        UserError: The game has more than ``max_players`` players.

    Example:
        Player 0 has a left glove, players 1 and 2 a right one each; a pair of gloves is worth 1.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> exact_shapley_values(FunctionGame(gloves, 3), torch.zeros(1, 1)).flatten()
        tensor([0.6667, 0.1667, 0.1667], dtype=torch.float64)
    """
    estimator = Exact(game, inputs, max_players=max_players)
    estimator.advance(estimator.max_samples)
    return estimator.estimate().phi

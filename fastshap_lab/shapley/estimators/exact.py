"""Exact Shapley values, from all coalitions."""

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.coalitions import all_coalitions
from fastshap_lab.shapley.estimators.base import Estimate, SequentialEstimator
from fastshap_lab.shapley.game import Game


def exact_coefficients(num_players: int) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
    """Return what a coalition's value counts for its members, and for the others, by its size 0 … P; float64.

    ``phi_i = sum over S of +(|S|-1)! (P-|S|)! / P! v(S)`` where i is in S and ``-|S|! (P-|S|-1)! / P! v(S)`` where not.
    """
    members = [0.0] + [1 / (size * math.comb(num_players, size)) for size in range(1, num_players + 1)]
    others = [-1 / ((num_players - size) * math.comb(num_players, size)) for size in range(num_players)] + [0.0]
    return torch.tensor(members, dtype=torch.float64), torch.tensor(others, dtype=torch.float64)


class Exact(SequentialEstimator):
    """Enumerates all coalitions; says nothing before the last of them, and has no error after it.

    Reference: Shapley, A value for n-person games, 1953.

    Args:
        game: Its values are asked for the 2^P - 2 coalitions between null and grand.
        inputs: What the game takes.
        seed: Nothing is drawn.
        max_players: Refuse larger games: the cost doubles with every player.

    Raises:
        UserError: The game has more than ``max_players`` players.
    """

    sample_size = 1
    _evidence = ("_sums",)

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0, max_players: int = 20) -> None:
        if game.num_players > max_players:
            raise UserError(
                f"exact values: {game.num_players} players make 2^{game.num_players} coalitions; "
                f"at most {max_players} players are allowed"
            )
        super().__init__(game, inputs, seed)
        self._sums = (self.grand - self.null).unsqueeze(1).repeat(1, self.num_players, 1) / self.num_players

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the number of all coalitions but the null and the grand one."""
        return 2**num_players - 2

    @property
    def max_samples(self) -> int:
        """All coalitions but the null and the grand one."""
        return 2**self.num_players - 2

    def estimate(self) -> Estimate:
        """Return the values, which mean nothing before all coalitions are counted: their error is infinite."""
        stderr = torch.full_like(self._sums, 0.0 if self.complete else math.inf)
        return Estimate(self._sums.clone(), stderr, self.evaluations)

    def _samples(self, start: int, stop: int) -> Bool[Tensor, "N M P"]:
        return all_coalitions(self.num_players, start + 1, stop + 1).unsqueeze(1)

    def _learn(self, start: int, samples: Bool[Tensor, "N M P"], values: Float[Tensor, "B N M K"]) -> None:
        coalitions = samples.squeeze(1)
        sizes = coalitions.sum(dim=1, keepdim=True)
        of_members, of_others = exact_coefficients(self.num_players)
        coefficients = torch.where(coalitions, of_members[sizes], of_others[sizes])  # (N, P)
        self._sums = self._sums + coefficients.T @ values.squeeze(2)


def exact_shapley_values(game: Game, inputs: Shaped[Tensor, "B ..."], max_players: int = 16) -> Float[Tensor, "B P K"]:
    """Return the Shapley values of every player for every class from all coalitions, in float64 on the CPU.

    Args:
        game: Its values are asked for 2^P coalitions of each input.
        inputs: What the game takes.
        max_players: Refuse larger games: the cost doubles with every player.

    Raises:
        UserError: The game has more than ``max_players`` players.

    Example:
        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):  # player 0 has a left glove, the others right ones; a pair is worth 1
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> exact_shapley_values(FunctionGame(gloves, 3), torch.zeros(1, 1)).squeeze().mul(6).round().tolist()
        [4.0, 1.0, 1.0]
    """
    estimator = Exact(game, inputs, max_players=max_players)
    estimator.advance(estimator.max_samples)
    return estimator.estimate().phi

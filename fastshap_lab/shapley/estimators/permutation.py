"""Antithetic permutation sampling: marginal contributions in random orders and their reverses."""

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fastshap_lab.shapley.estimators.base import Estimate, SequentialEstimator
from fastshap_lab.shapley.game import Game


def arrivals(orders: Int[Tensor, "N P"]) -> Bool[Tensor, "N M P"]:
    """Return the coalitions of sizes 1 … P-1 that form as players arrive in each order.

    Args:
        orders: Permutations of the players 0 … P-1, int64.

    Example:
        >>> arrivals(torch.tensor([[2, 0, 1]])).int()
        tensor([[[0, 0, 1],
                 [1, 0, 1]]], dtype=torch.int32)
    """
    num_players = orders.shape[1]
    rank = orders.argsort(dim=1)  # the position of each player in the order
    return rank.unsqueeze(1) < torch.arange(1, num_players).view(1, -1, 1)


def marginal_contributions(
    orders: Int[Tensor, "N P"],
    values: Float[Tensor, "B N M K"],
    grand: Float[Tensor, "B K"],
    null: Float[Tensor, "B K"],
) -> Float[Tensor, "B N P K"]:
    """Return what each player adds to the value on arrival; the contributions in an order add up to ``grand - null``.

    Args:
        orders: Permutations of the players 0 … P-1, int64.
        values: Values of the coalitions ``arrivals(orders)``.
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition of each input.

    Example:
        Player 1 comes first and makes the value 2; player 0 makes it 5.

        >>> values, null, grand = torch.tensor([[[[2.0]]]]), torch.tensor([[0.0]]), torch.tensor([[5.0]])
        >>> marginal_contributions(torch.tensor([[1, 0]]), values, grand, null).flatten()
        tensor([3., 2.])
    """
    first, last = (end[:, None, None].expand(-1, len(orders), -1, -1) for end in (null, grand))
    added = torch.cat([first, values, last], dim=2).diff(dim=2)  # (B, N, P, K), in order of arrival
    return added.take_along_dim(orders.argsort(dim=1)[None, :, :, None], dim=2)


class Permutation(SequentialEstimator):
    """Averages marginal contributions over random orders of the players, each with its reverse.

    A pair of orders costs 2 (P-1) evaluations, and its mean is efficient. Standard errors are computed from the
    variance between pairs, since the two orders of a pair are not independent.

    Reference: Castro et al., Computers & Operations Research 36, 2009, on sampling orders; Mitchell et al., JMLR 23,
    2022, arXiv:2104.12199, section 4, on antithetic ones.

    Args:
        game: The game to explain.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing orders.

    Example:
        Of two players, an order and its reverse are all orders.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> estimator = Permutation(FunctionGame(worth, 2), torch.zeros(1, 1))
        >>> estimator.advance(2)
        >>> estimator.estimate().phi.flatten()
        tensor([2., 3.], dtype=torch.float64)
    """

    _evidence = ("_mean", "_squares")

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0) -> None:
        super().__init__(game, inputs, seed)
        self.sample_size = 2 * (self.num_players - 1)
        # Before the first pair the estimate is the equal split.
        self._mean = (self.grand - self.null).unsqueeze(1).repeat(1, self.num_players, 1) / self.num_players
        self._squares = torch.zeros_like(self._mean)  # sums of squared deviations from the mean

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the number of evaluations of two pairs of orders."""
        return 4 * (num_players - 1)

    def estimate(self) -> Estimate:
        """Return the mean over pairs of orders; its standard error is known from the second pair on."""
        pairs = self.num_samples
        stderr = torch.full_like(self._mean, math.inf)
        if pairs > 1:
            stderr = self._not_certain((self._squares / (pairs * (pairs - 1))).sqrt(), (pairs * (pairs + 1)) ** -0.5)
        return Estimate(self._mean.clone(), stderr, self.evaluations)

    def _orders(self, start: int, stop: int) -> Int[Tensor, "N 2 P"]:
        orders = [torch.randperm(self.num_players, generator=self._generator(n)) for n in range(start, stop)]
        return torch.stack([torch.stack([order, order.flip(0)]) for order in orders])

    def _samples(self, start: int, stop: int) -> Bool[Tensor, "N M P"]:
        return arrivals(self._orders(start, stop).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)

    def _learn(self, start: int, samples: Bool[Tensor, "N M P"], values: Float[Tensor, "B N M K"]) -> None:
        new = len(samples)
        orders = self._orders(start, start + new).flatten(0, 1)
        single = values.flatten(1, 2).unflatten(1, (2 * new, -1))  # (B, orders, P-1, K)
        added = marginal_contributions(orders, single, self.grand, self.null).unflatten(1, (new, 2)).mean(dim=2)
        # Means and squared deviations of two parts combine without cancellation: Chan et al., 1983, equation 2.1.
        mean = added.mean(dim=1)
        squares = (added - mean.unsqueeze(1)).square().sum(dim=1)
        step = mean - self._mean
        self._mean = self._mean + step * new / (start + new)
        self._squares = self._squares + squares + step.square() * start * new / (start + new)

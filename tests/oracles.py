"""The mathematics once more, from the definitions: slow, in float64, sharing no code with the package.

A game of P players is a table of its 2^P values; bit i of a coalition's number says whether player i is present.
Oracles take the tables of B images and K classes, (B, 2^P, K), and return values of the players, (B, P, K).
"""

import decimal
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class TableGame:
    """A game that looks its values up, with whatever dtype its table has.

    Args:
        table: Value of every image, coalition and class, (B, 2^P, K).
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.num_players = table.shape[1].bit_length() - 1
        # One-pixel images that say which row of the table they are.
        self.image = torch.arange(len(table), dtype=torch.float32).view(-1, 1, 1, 1)

    @classmethod
    def random(cls, num_images: int, num_players: int, num_classes: int, seed: int = 0) -> "TableGame":
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(num_images, 2**num_players, num_classes, generator=generator, dtype=torch.float64))

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        rows = image[:, 0, 0, 0].long().unsqueeze(1)
        return self.table[rows, sum(coalitions[..., i].long() << i for i in range(self.num_players))]

    def grand(self, image: Tensor) -> Tensor:
        return self.table[image[:, 0, 0, 0].long(), -1]

    def null(self, image: Tensor) -> Tensor:
        return self.table[image[:, 0, 0, 0].long(), 0]

    def __call__(self, image: Tensor, coalitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.values(image, coalitions), self.grand(image), self.null(image)


class UnanimityGame:
    """A sum of terms that each pay once all of their members are present, and share equally: for any number of players.

    Args:
        terms: Whether a player belongs to a term, bool (T, P).
        pays: What the terms pay in each class, (B, T, K).
    """

    def __init__(self, terms: Tensor, pays: Tensor) -> None:
        self.terms, self.pays = terms.double(), pays.double()
        self.num_players = terms.shape[1]
        self.image = torch.arange(len(pays), dtype=torch.float32).view(-1, 1, 1, 1)
        self.phi = (self.terms / self.terms.sum(dim=1, keepdim=True)).T @ self.pays  # (B, P, K)

    @classmethod
    def random(cls, num_images: int, num_players: int, num_classes: int, seed: int = 0) -> "UnanimityGame":
        """Return a game of as many terms of each of the sizes 1 … 4 as there are players."""
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.arange(1, 5).repeat_interleave(num_players).unsqueeze(1)
        order = torch.rand(len(sizes), num_players, generator=generator).argsort(dim=1)
        return cls(order < sizes, torch.randn(num_images, len(sizes), num_classes, generator=generator))

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        missing = self.terms @ (~coalitions).double().mT  # (B, T, M)
        return (missing == 0).double().mT @ self.pays[image[:, 0, 0, 0].long()]

    def grand(self, image: Tensor) -> Tensor:
        return self.pays[image[:, 0, 0, 0].long()].sum(dim=1)

    def null(self, image: Tensor) -> Tensor:
        return torch.zeros_like(self.grand(image))

    def __call__(self, image: Tensor, coalitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.values(image, coalitions), self.grand(image), self.null(image)


def members(number: int, num_players: int) -> list[int]:
    """Return the players of the coalition with this number."""
    return [player for player in range(num_players) if number & 2**player]


def kernel_weight(num_players: int, size: int) -> float:
    """Return the Shapley kernel's weight of one coalition of this size: theorem 2 of arXiv:1705.07874."""
    return (num_players - 1) / (math.comb(num_players, size) * size * (num_players - size))


def permutation_shapley_values(table: Tensor) -> Tensor:
    """Return each player's marginal contribution averaged over all P! orders of arrival."""

    def solve(values: Sequence[float], num_players: int) -> list[float]:
        marginals: list[list[float]] = [[] for _ in range(num_players)]
        for order in itertools.permutations(range(num_players)):
            present = 0
            for player in order:
                marginals[player].append(values[present + 2**player] - values[present])
                present += 2**player
        return [math.fsum(of_player) / len(of_player) for of_player in marginals]

    return _solve_every_game(solve, table)


def subset_shapley_values(table: Tensor) -> Tensor:
    """Return ``sum over S without i of |S|! (P-|S|-1)! / P! (v(S + i) - v(S))``."""

    def solve(values: Sequence[float], num_players: int) -> list[float]:
        phi = []
        for player in range(num_players):
            others = [other for other in range(num_players) if other != player]
            phi.append(
                math.fsum(
                    math.factorial(size)
                    * math.factorial(num_players - size - 1)
                    / math.factorial(num_players)
                    * (values[number + 2**player] - values[number])
                    for size in range(num_players)
                    for number in (sum(2**i for i in subset) for subset in itertools.combinations(others, size))
                )
            )
        return phi

    return _solve_every_game(solve, table)


def regression_shapley_values(table: Tensor) -> Tensor:
    """Return the efficient values nearest to the game under the Shapley kernel, over all coalitions.

    The closed form of arXiv:2012.01536, section 3: ``A^-1 (b - 1 (1' A^-1 b - v(grand) + v(null)) / (1' A^-1 1))``.
    """

    def solve(values: Sequence[float], num_players: int) -> list[float]:
        a, b, one = np.zeros((num_players, num_players)), np.zeros(num_players), np.ones(num_players)
        for number in range(1, 2**num_players - 1):
            present = np.array([float(player in members(number, num_players)) for player in range(num_players)])
            weight = kernel_weight(num_players, int(present.sum()))
            a += weight * np.outer(present, present)
            b += weight * present * (values[number] - values[0])
        surplus = one @ np.linalg.solve(a, b) - (values[-1] - values[0])
        return list(np.linalg.solve(a, b - one * surplus / (one @ np.linalg.solve(a, one))))

    return _solve_every_game(solve, table)


def log_odds(logits: Sequence[float]) -> list[float]:
    """Return ``log(p / (1 - p))`` of each softmax probability, with digits enough for p within e^-2000 of 1."""
    with decimal.localcontext(prec=1000):
        exponentials = [decimal.Decimal(logit).exp() for logit in logits]
        probabilities = [exponential / sum(exponentials) for exponential in exponentials]
        return [float((p / (1 - p)).ln()) for p in probabilities]


def _solve_every_game(solve: Callable[[Sequence[float], int], list[float]], table: Tensor) -> Tensor:
    num_players = table.shape[1].bit_length() - 1
    games = table.double().transpose(1, 2)  # (B, K, 2^P)
    phi = [[solve(values.tolist(), num_players) for values in image] for image in games]
    return torch.tensor(phi, dtype=torch.float64).transpose(1, 2)

"""Reference Shapley values of a game."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.coalitions import all_coalitions
from fastshap_lab.shapley.game import Game

# Coalitions of one image at a time: enough to keep a game's own chunks full, little enough to hold.
_BLOCK = 4096


def exact_coefficients(num_players: int) -> tuple[Float[Tensor, " sizes"], Float[Tensor, " sizes"]]:
    """Return what a coalition's value counts for its members, and for the others, by its size 0 … P; float64.

    ``phi_i = sum over S of +(|S|-1)! (P-|S|)! / P! v(S)`` where i is in S and ``-|S|! (P-|S|-1)! / P! v(S)`` where not.
    """
    members = [0.0] + [1 / (size * math.comb(num_players, size)) for size in range(1, num_players + 1)]
    others = [-1 / ((num_players - size) * math.comb(num_players, size)) for size in range(num_players)] + [0.0]
    return torch.tensor(members, dtype=torch.float64), torch.tensor(others, dtype=torch.float64)


@torch.no_grad()
def exact_shapley_values(game: Game, image: Float[Tensor, "B C H W"], max_players: int = 16) -> Float[Tensor, "B P K"]:
    """Return the Shapley values of every player for every class from all 2^P coalitions, in float64 on the CPU.

    Reference: Shapley, A value for n-person games, 1953. Holds one block of coalitions at a time.

    Args:
        game: Its values are asked for 2^P coalitions of each image.
        image: RGB in [0, 1].
        max_players: Refuse larger games: the cost doubles with every player.

    Raises:
        UserError: The game has more than ``max_players`` players.
    """
    num_players = game.num_players
    if num_players > max_players:
        raise UserError(
            f"exact values: {num_players} players make 2^{num_players} coalitions; at most {max_players} allowed"
        )
    of_members, of_others = exact_coefficients(num_players)
    phi = torch.zeros(())
    for start in range(0, 2**num_players, _BLOCK):
        coalitions = all_coalitions(num_players, start, min(start + _BLOCK, 2**num_players))
        sizes = coalitions.sum(dim=1, keepdim=True)
        coefficients = torch.where(coalitions, of_members[sizes], of_others[sizes])  # (M, P)
        asked = coalitions.to(image.device).unsqueeze(0)
        values = torch.cat([game.values(one.unsqueeze(0), asked) for one in image])  # (B, M, K)
        phi = phi + coefficients.T @ values.cpu().double()  # on the CPU: not every device has float64
    return phi

"""Coalitions: exact draws from the Shapley kernel and from uniform sizes, and the list of all of them."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Sampler(Protocol):
    """Draws coalitions; everything random comes from the generator."""

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and the importance weights that make weighted means unbiased."""


def kernel_size_probabilities(num_players: int) -> Float[Tensor, " sizes"]:
    """Return the probability of each coalition size 1 … P-1 under the Shapley kernel, float64.

    The kernel weighs one coalition of size k by ``(P-1) / (C(P, k) k (P-k))``; there are ``C(P, k)`` of them, so a size
    has the mass ``1 / (k (P-k))``, normalized here. Empty and full coalitions have none: their infinite weight is the
    constraint that the values add up.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874, theorem 2; Covert and Lee, AISTATS 2021,
    arXiv:2012.01536, section 3.
    """
    sizes = torch.arange(1, num_players, dtype=torch.float64)
    mass = 1 / (sizes * (num_players - sizes))
    return mass / mass.sum()


def random_coalitions(
    sizes: Int[Tensor, "*shape"], num_players: int, generator: torch.Generator
) -> Bool[Tensor, "*shape P"]:
    """Return a uniformly drawn coalition of exactly each given size (0 … P), on the generator's device."""
    order = torch.rand(*sizes.shape, num_players, generator=generator, device=generator.device).argsort(dim=-1)
    first = torch.arange(num_players, device=generator.device) < sizes.unsqueeze(-1)
    return torch.zeros_like(first).scatter(-1, order, first)


def all_coalitions(num_players: int, start: int = 0, stop: int | None = None) -> Bool[Tensor, "M P"]:
    """Return coalitions ``start … stop-1`` of the 2^P; bit i of a coalition's number says whether player i is in."""
    numbers = torch.arange(start, 2**num_players if stop is None else stop)
    return (numbers.unsqueeze(1) >> torch.arange(num_players)) & 1 == 1


class ShapleyKernelSampler:
    """Draw from the Shapley kernel exactly: the size first, then members; never the empty or the full coalition.

    Args:
        num_players: P, at least 2.
        paired: Let every second coalition be the complement of the one before it, which leaves each coalition's
            distribution as it is (the kernel is symmetric) and lowers the variance of a regression on them.

    Reference: Covert and Lee, AISTATS 2021, arXiv:2012.01536, section 4.1, on paired sampling.
    """

    def __init__(self, num_players: int, paired: bool = True) -> None:
        self.num_players, self.paired = num_players, paired
        self._probabilities = kernel_size_probabilities(num_players)

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and unit weights.

        Raises:
            ValueError: Pairs are asked for and ``num_coalitions`` is odd.
        """
        if self.paired and num_coalitions % 2:
            raise ValueError(f"pairs need an even number of coalitions, got {num_coalitions}")
        drawn = num_coalitions // 2 if self.paired else num_coalitions
        probabilities = self._probabilities.to(generator.device)
        sizes = 1 + torch.multinomial(probabilities, batch_size * drawn, replacement=True, generator=generator)
        coalitions = random_coalitions(sizes.view(batch_size, drawn), self.num_players, generator)
        if self.paired:
            coalitions = torch.stack([coalitions, ~coalitions], dim=2).flatten(1, 2)
        return coalitions.to(device), torch.ones(batch_size, num_coalitions, device=device)


class UniformSizeSampler:
    """Draw the size uniformly from 0 … P, then members: what surrogates train on, both ends included.

    Has the law of FastSHAP's ``s_i = 1[u_i < t]``, ``t ~ U(0, 1)`` (Jethani et al., ICLR 2022, arXiv:2107.07436).
    """

    def __init__(self, num_players: int) -> None:
        self.num_players = num_players

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and unit weights."""
        shape = (batch_size, num_coalitions)
        sizes = torch.randint(self.num_players + 1, shape, generator=generator, device=generator.device)
        coalitions = random_coalitions(sizes, self.num_players, generator)
        return coalitions.to(device), torch.ones(shape, device=device)

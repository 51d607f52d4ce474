"""Coalitions: exact draws from the Shapley kernel and from uniform sizes, and the list of all of them."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastshap_lab.shapley.game import check_players


@runtime_checkable
class Sampler(Protocol):
    """Draws coalitions; everything random comes from the generator.

    Example:
        >>> isinstance(ShapleyKernelSampler(4), Sampler)
        True
    """

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

    Raises:
        UserError: There are fewer than two players.

    Example:
        >>> kernel_size_probabilities(4).mul(11).round().tolist()  # sizes 1, 2 and 3
        [4.0, 3.0, 4.0]
    """
    check_players(num_players)
    sizes = torch.arange(1, num_players, dtype=torch.float64)
    mass = 1 / (sizes * (num_players - sizes))
    return mass / mass.sum()


def random_coalitions(
    sizes: Int[Tensor, "*shape"], num_players: int, generator: torch.Generator
) -> Bool[Tensor, "*shape P"]:
    """Return a uniformly drawn coalition of each given size, bool (*shape, P), on the generator's device.

    Args:
        sizes: Number of present players of each coalition, from 0 to P.
        num_players: Number of players P.
        generator: Generator for drawing coalitions.
    """
    order = torch.rand(*sizes.shape, num_players, generator=generator, device=generator.device).argsort(dim=-1)
    first = torch.arange(num_players, device=generator.device) < sizes.unsqueeze(-1)
    return torch.zeros_like(first).scatter(-1, order, first)


def dealt_coalitions(
    sizes: Int[Tensor, "B drawn"], num_players: int, generator: torch.Generator
) -> Bool[Tensor, "B drawn P"]:
    """Return a coalition of each given size, bool (B, drawn, P), dealt like cards from shuffled decks.

    Each coalition on its own is uniformly drawn. The coalitions of an input repeat each other less than independent
    ones: the players that are dealt, members or absentees, whichever are fewer, differ until the deck runs out and the
    next one begins. After more than a third of the players the next deck begins at once, since a half and the other
    half would be the same pair again.

    Args:
        sizes: Number of present players of each coalition, from 1 to P - 1.
        num_players: Number of players P.
        generator: Generator for drawing coalitions.
    """
    dealt = torch.minimum(sizes, num_players - sizes)
    used = torch.where(3 * dealt > num_players, num_players, dealt)
    start = used.cumsum(dim=1) - used
    shape = (*sizes.shape, num_players)
    place = torch.rand(shape, generator=generator, device=generator.device).argsort(dim=-1)  # of each player in a deck
    place = place.gather(1, (start // num_players).unsqueeze(-1).expand(shape))
    fewer = (place - start.unsqueeze(-1)) % num_players < dealt.unsqueeze(-1)
    return fewer ^ (sizes > dealt).unsqueeze(-1)


def all_coalitions(num_players: int, start: int = 0, stop: int | None = None) -> Bool[Tensor, "M P"]:
    """Return coalitions ``start … stop-1`` of the 2^P; bit i of a coalition's number says whether player i is in.

    Args:
        num_players: Number of players P.
        start: Number of the first coalition.
        stop: Number after the last one; 2^P if None.

    Example:
        >>> all_coalitions(2).int().tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    numbers = torch.arange(start, 2**num_players if stop is None else stop)
    return (numbers.unsqueeze(1) >> torch.arange(num_players)) & 1 == 1


def independent_levels(batch_size: int, num_levels: int, generator: torch.Generator) -> Float[Tensor, "B levels"]:
    """Return independent draws from [0, 1), (batch_size, num_levels).

    Args:
        batch_size: Number of inputs.
        num_levels: Number of draws for each input.
        generator: Generator for drawing levels.
    """
    return torch.rand(batch_size, num_levels, generator=generator, device=generator.device)


def stratified_levels(batch_size: int, num_levels: int, generator: torch.Generator) -> Float[Tensor, "B levels"]:
    """Return equally spaced points of [0, 1), (batch_size, num_levels), those of each input equally spaced, too.

    One random shift of the whole circle makes every single level uniform. The levels of an input are ``1 / num_levels``
    apart, and the inputs, in random order, divide each of these gaps among themselves.

    Args:
        batch_size: Number of inputs.
        num_levels: Number of levels for each input.
        generator: Generator for drawing levels.
    """
    device = generator.device
    row = torch.randperm(batch_size, generator=generator, device=device).unsqueeze(1)
    places = row + batch_size * torch.arange(num_levels, device=device)
    return (places / (batch_size * num_levels) + torch.rand(1, generator=generator, device=device)) % 1


def shared_levels(batch_size: int, num_levels: int, generator: torch.Generator) -> Float[Tensor, "B levels"]:
    """Return equally spaced points of [0, 1) with one random shift, (batch_size, num_levels), the same for every input.

    Args:
        batch_size: Number of inputs.
        num_levels: Number of levels.
        generator: Generator for drawing the shift.
    """
    return stratified_levels(1, num_levels, generator).repeat(batch_size, 1)


class ShapleyKernelSampler:
    """Draw coalitions whose weighted means are those under the Shapley kernel; never the empty or the full one.

    The size comes first: a level in [0, 1) is looked up in the distribution of sizes. Members follow, all equally
    likely. Each coalition on its own has the sampler's distribution exactly, however several hang together, so that
    whatever is a mean over coalitions, as the regression's gradient is, has the same expectation with all settings.

    Args:
        num_players: P, at least 2.
        paired: Let every second coalition be the complement of the one before it, which leaves each coalition's
            distribution as it is (the kernel is symmetric) and lowers the variance of a regression on them.
        levels: Draws one level per size: ``independent_levels``, ``stratified_levels`` or ``shared_levels``.
        members: Draws coalitions of given sizes: ``random_coalitions`` or ``dealt_coalitions``.
        leverage: Draw all sizes alike, as their leverage scores would have it, and weigh each coalition by what the
            kernel gives its size instead.

    Reference: Covert and Lee, AISTATS 2021, arXiv:2012.01536, section 4.1, on paired sampling; Musco and Witter, ICLR
    2025, arXiv:2410.01917, on leverage scores. Differs from the latter: drawn with replacement.

    Example:
        >>> sampler = ShapleyKernelSampler(4, paired=True)
        >>> coalitions, weights = sampler(1, 2, torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> bool((coalitions[0, 0] == ~coalitions[0, 1]).all()), weights.tolist()
        (True, [[1.0, 1.0]])
    """

    def __init__(
        self,
        num_players: int,
        paired: bool = True,
        levels: Callable[[int, int, torch.Generator], Tensor] = independent_levels,
        members: Callable[[Tensor, int, torch.Generator], Tensor] = random_coalitions,
        leverage: bool = False,
    ) -> None:
        self.num_players, self.paired, self._levels, self._members = num_players, paired, levels, members
        # 1, P-1, 2, P-2, …: a pair is the same whichever of both is drawn, so equal pairs lie side by side.
        sizes = torch.arange(1, num_players)
        self._sizes = sizes[torch.minimum(sizes, num_players - sizes).argsort(stable=True)]
        kernel = kernel_size_probabilities(num_players)[self._sizes - 1]
        proposal = torch.full_like(kernel, 1 / len(kernel)) if leverage else kernel
        # Float32, since not every device has float64.
        self._bounds, self._weights = proposal.cumsum(0)[:-1].float(), (kernel / proposal).float()

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and their importance weights, of mean 1; all are 1 where the kernel itself is drawn from.

        Raises:
            ValueError: Pairs are asked for and ``num_coalitions`` is odd.
        """
        if self.paired and num_coalitions % 2:
            raise ValueError(f"pairs need an even number of coalitions, got {num_coalitions}")
        drawn = num_coalitions // 2 if self.paired else num_coalitions
        levels = self._levels(batch_size, drawn, generator)
        bounds, sizes, table = (  # a GPU is not waited for
            each.to(levels.device, non_blocking=True) for each in (self._bounds, self._sizes, self._weights)
        )
        index = torch.bucketize(levels, bounds, right=True)
        coalitions, weights = self._members(sizes[index], self.num_players, generator), table[index]
        if self.paired:
            coalitions = torch.stack([coalitions, ~coalitions], dim=2).flatten(1, 2)
            weights = weights.repeat_interleave(2, dim=1)
        return coalitions.to(device), weights.to(device)


class UniformSizeSampler:
    """Draw the size uniformly from 0 … P, then members: what surrogates train on, both ends included.

    Has the law of FastSHAP's ``s_i = 1[u_i < t]``, ``t ~ U(0, 1)`` (Jethani et al., ICLR 2022, arXiv:2107.07436). Not
    for explainers: they have no use for the ends, and without these it is ``leverage`` of ``SAMPLERS``.

    Args:
        num_players: P, at least 2.

    Example:
        >>> coalitions, _ = UniformSizeSampler(4)(2, 3, torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> coalitions.shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, num_players: int) -> None:
        check_players(num_players)
        self.num_players = num_players

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and unit weights."""
        shape = (batch_size, num_coalitions)
        sizes = torch.randint(self.num_players + 1, shape, generator=generator, device=generator.device)
        coalitions = random_coalitions(sizes, self.num_players, generator)
        return coalitions.to(device), torch.ones(shape, device=device)


_stratified = partial(ShapleyKernelSampler, levels=stratified_levels, members=dealt_coalitions)

# What an explainer's regression may draw its coalitions from: each is unbiased for the loss over all coalitions.
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "kernel": partial(ShapleyKernelSampler, paired=False),
    "paired": ShapleyKernelSampler,
    "stratified": _stratified,
    "shared": partial(_stratified, levels=shared_levels),  # sizes that all inputs share group passes that drop tokens
    "leverage": partial(_stratified, leverage=True),
}

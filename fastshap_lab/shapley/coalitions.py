"""Coalitions: samplers that follow the Shapley kernel or draw sizes uniformly, and the list of all coalitions."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastshap_lab.shapley.game import check_players


@runtime_checkable
class Sampler(Protocol):
    """A callable that draws coalitions; all randomness comes from the generator that it is given.

    Example:
        >>> sampler: Sampler = ShapleyKernelSampler(num_players=4)
        >>> coalitions, weights = sampler(2, 6, torch.Generator(), torch.device("cpu"))
        >>> coalitions.shape, weights.shape
        (torch.Size([2, 6, 4]), torch.Size([2, 6]))
    """

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and the importance weights that make weighted means over them unbiased.

        Args:
            batch_size: Number of inputs B.
            num_coalitions: Number of coalitions M to draw for each input.
            generator: Source of all randomness.
            device: Device of the returned tensors.
        """


def kernel_size_probabilities(num_players: int) -> Float[Tensor, " sizes"]:
    """Return the probability of each coalition size 1 … P-1 under the Shapley kernel, float64.

    The kernel weighs one coalition of size k by ``(P-1) / (C(P, k) k (P-k))``. There are ``C(P, k)`` of them, so the
    probability of a size is proportional to ``1 / (k (P-k))``. The empty and the full coalition are left out: their
    weight is infinite, which stands for the constraint that Shapley values add up to the total.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874, theorem 2; Covert and Lee, AISTATS 2021,
    arXiv:2012.01536, section 3.

    Args:
        num_players: Number of players P, at least 2.

    Raises:
        UserError: There are fewer than two players.

    Example:
        Of four players, sizes 1, 2 and 3 have masses in the ratio 1/3 : 1/4 : 1/3.

        >>> kernel_size_probabilities(4)
        tensor([0.3636, 0.2727, 0.3636], dtype=torch.float64)
    """
    check_players(num_players)
    sizes = torch.arange(1, num_players, dtype=torch.float64)
    mass = 1 / (sizes * (num_players - sizes))
    return mass / mass.sum()


def random_coalitions(
    sizes: Int[Tensor, "*shape"], num_players: int, generator: torch.Generator
) -> Bool[Tensor, "*shape P"]:
    """Return one coalition of each given size, drawn uniformly among those of the size, on the generator's device.

    Args:
        sizes: Numbers of present players, each from 0 to P.
        num_players: Number of players P.
        generator: Source of all randomness.

    Example:
        >>> random_coalitions(torch.tensor([0, 2, 4]), 4, torch.Generator()).sum(dim=1)
        tensor([0, 2, 4])
    """
    order = torch.rand(*sizes.shape, num_players, generator=generator, device=generator.device).argsort(dim=-1)
    first = torch.arange(num_players, device=generator.device) < sizes.unsqueeze(-1)
    return torch.zeros_like(first).scatter(-1, order, first)


def dealt_coalitions(
    sizes: Int[Tensor, "B drawn"], num_players: int, generator: torch.Generator
) -> Bool[Tensor, "B drawn P"]:
    """Return one coalition of each given size; an input's coalitions are dealt like cards from shuffled decks.

    Each coalition by itself is uniformly distributed among those of its size. An input's coalitions repeat each other
    less than independent ones: a deck holds each player once, and deals the smaller side of a coalition (its present or
    its absent players), so the same player does not come again before the deck is used up. A coalition whose smaller
    side has more than a third of the players uses up its deck: the other half of a deck would be the same pair again.

    Args:
        sizes: Numbers of present players, each from 1 to P-1.
        num_players: Number of players P.
        generator: Source of all randomness.

    Example:
        The first four single players of a deck are four different ones.

        >>> dealt_coalitions(torch.tensor([[1, 1, 1, 1]]), 4, torch.Generator()).sum(dim=1)
        tensor([[1, 1, 1, 1]])
    """
    dealt = torch.minimum(sizes, num_players - sizes)
    used = torch.where(3 * dealt > num_players, num_players, dealt)
    start = used.cumsum(dim=1) - used
    shape = (*sizes.shape, num_players)
    # The place of each player in each deck.
    place = torch.rand(shape, generator=generator, device=generator.device).argsort(dim=-1)
    place = place.gather(1, (start // num_players).unsqueeze(-1).expand(shape))
    fewer = (place - start.unsqueeze(-1)) % num_players < dealt.unsqueeze(-1)
    return fewer ^ (sizes > dealt).unsqueeze(-1)


def all_coalitions(num_players: int, start: int = 0, stop: int | None = None) -> Bool[Tensor, "M P"]:
    """Return the coalitions with the numbers ``start … stop-1``; bit i of a number says whether player i is present.

    Args:
        num_players: Number of players P.
        start: First number.
        stop: Number after the last one, 2^P if None.

    Example:
        >>> all_coalitions(2).int()
        tensor([[0, 0],
                [1, 0],
                [0, 1],
                [1, 1]], dtype=torch.int32)
    """
    numbers = torch.arange(start, 2**num_players if stop is None else stop)
    return (numbers.unsqueeze(1) >> torch.arange(num_players)) & 1 == 1


def independent_levels(batch_size: int, num_levels: int, generator: torch.Generator) -> Float[Tensor, "B levels"]:
    """Return independent uniform draws from [0, 1).

    Args:
        batch_size: Number of inputs B.
        num_levels: Number of draws for each input.
        generator: Source of all randomness.

    Example:
        >>> independent_levels(2, 3, torch.Generator()).shape
        torch.Size([2, 3])
    """
    return torch.rand(batch_size, num_levels, generator=generator, device=generator.device)


def stratified_levels(batch_size: int, num_levels: int, generator: torch.Generator) -> Float[Tensor, "B levels"]:
    """Return stratified draws from [0, 1): equidistant for each input, and equidistant over the whole batch.

    Points are on a circle. One random rotation of all of them makes every single level uniform. An input's levels are
    ``1 / num_levels`` apart, and the levels of the inputs, in random order, divide each of these gaps evenly.

    Args:
        batch_size: Number of inputs B.
        num_levels: Number of draws for each input.
        generator: Source of all randomness.

    Example:
        >>> stratified_levels(2, 4, torch.Generator()).sort(dim=1).values.diff(dim=1)
        tensor([[0.2500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.2500]])
    """
    device = generator.device
    row = torch.randperm(batch_size, generator=generator, device=device).unsqueeze(1)
    places = row + batch_size * torch.arange(num_levels, device=device)
    return (places / (batch_size * num_levels) + torch.rand(1, generator=generator, device=device)) % 1


def shared_levels(batch_size: int, num_levels: int, generator: torch.Generator) -> Float[Tensor, "B levels"]:
    """Return equidistant points of [0, 1) after one random rotation, the same for every input.

    Args:
        batch_size: Number of inputs B.
        num_levels: Number of points for each input.
        generator: Source of all randomness.

    Example:
        >>> levels = shared_levels(2, 4, torch.Generator())
        >>> levels[0].equal(levels[1])
        True
    """
    return stratified_levels(1, num_levels, generator).repeat(batch_size, 1)


class ShapleyKernelSampler:
    """Sampler whose weighted means estimate means under the Shapley kernel; it never draws the empty or full coalition.

    First it draws a size: a level in [0, 1) is looked up in the distribution of sizes. Then it draws the members, and
    all coalitions of the size are equally likely. Coalitions of an input may depend on each other, but each by itself
    follows the sampler's distribution exactly. A mean over coalitions, such as the regression's gradient, therefore has
    the same expectation with all settings.

    Args:
        num_players: Number of players P, at least 2.
        paired: Whether every second coalition is the complement of the one before it. This changes no coalition's
            distribution, since the kernel is symmetric, and lowers the variance of a regression on the coalitions.
        levels: Draws one level per size: ``independent_levels``, ``stratified_levels`` or ``shared_levels``.
        members: Draws coalitions of given sizes: ``random_coalitions`` or ``dealt_coalitions``.
        leverage: Whether to draw sizes uniformly, in proportion to the leverage scores. Importance weights then correct
            for the kernel's distribution of sizes.

    Reference: Covert and Lee, AISTATS 2021, arXiv:2012.01536, section 4.1, on paired sampling; Musco and Witter, ICLR
    2025, arXiv:2410.01917, on leverage scores. Differs from the latter: coalitions are drawn with replacement.

    Example:
        Of three players, each coalition has one or two members, and its complement follows.

        >>> sampler = ShapleyKernelSampler(num_players=3)
        >>> coalitions, weights = sampler(1, 4, torch.Generator(), torch.device("cpu"))
        >>> (coalitions[:, 0::2] == ~coalitions[:, 1::2]).all(), weights
        (tensor(True), tensor([[1., 1., 1., 1.]]))
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
        # The order is 1, P-1, 2, P-2, …: either coalition of a pair stands for the same pair, so sizes that make equal
        # pairs lie side by side.
        sizes = torch.arange(1, num_players)
        self._sizes = sizes[torch.minimum(sizes, num_players - sizes).argsort(stable=True)]
        kernel = kernel_size_probabilities(num_players)[self._sizes - 1]
        proposal = torch.full_like(kernel, 1 / len(kernel)) if leverage else kernel
        # Float32, since not every device supports float64.
        self._bounds, self._weights = proposal.cumsum(0)[:-1].float(), (kernel / proposal).float()

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and their importance weights, whose expectation is 1; without ``leverage`` all are 1.

        Raises:
            ValueError: The sampler is paired and ``num_coalitions`` is odd.
        """
        if self.paired and num_coalitions % 2:
            raise ValueError(f"num_coalitions={num_coalitions}: must be even, since coalitions are drawn in pairs")
        drawn = num_coalitions // 2 if self.paired else num_coalitions
        levels = self._levels(batch_size, drawn, generator)
        bounds, sizes, table = (  # the copies to a GPU do not block
            each.to(levels.device, non_blocking=True) for each in (self._bounds, self._sizes, self._weights)
        )
        index = torch.bucketize(levels, bounds, right=True)
        coalitions, weights = self._members(sizes[index], self.num_players, generator), table[index]
        if self.paired:
            coalitions = torch.stack([coalitions, ~coalitions], dim=2).flatten(1, 2)
            weights = weights.repeat_interleave(2, dim=1)
        return coalitions.to(device), weights.to(device)


class UniformSizeSampler:
    """Sampler of a surrogate's training: draws a size uniformly from 0 … P, then one of the coalitions of this size.

    The distribution is that of FastSHAP's ``s_i = 1[u_i < t]``, ``t ~ U(0, 1)`` (Jethani et al., ICLR 2022,
    arXiv:2107.07436). Explainers cannot learn from the sizes 0 and P; the entry ``leverage`` of ``SAMPLERS`` is the
    same without them.

    Args:
        num_players: Number of players P, at least 2.

    Example:
        Of two players, a third of the coalitions has no member, one member, and two members each.

        >>> sampler = UniformSizeSampler(num_players=2)
        >>> coalitions, weights = sampler(1, 3000, torch.Generator(), torch.device("cpu"))
        >>> (coalitions.sum(dim=2).flatten().bincount() / 3000).round(decimals=1)
        tensor([0.3000, 0.3000, 0.3000])
    """

    def __init__(self, num_players: int) -> None:
        check_players(num_players)
        self.num_players = num_players

    def __call__(
        self, batch_size: int, num_coalitions: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Bool[Tensor, "B M P"], Float[Tensor, "B M"]]:
        """Return coalitions and their importance weights, which are all 1."""
        shape = (batch_size, num_coalitions)
        sizes = torch.randint(self.num_players + 1, shape, generator=generator, device=generator.device)
        coalitions = random_coalitions(sizes, self.num_players, generator)
        return coalitions.to(device), torch.ones(shape, device=device)


_stratified = partial(ShapleyKernelSampler, levels=stratified_levels, members=dealt_coalitions)

# The samplers for an explainer's regression: with each, the expectation of the loss is the loss over all coalitions.
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "kernel": partial(ShapleyKernelSampler, paired=False),
    "paired": ShapleyKernelSampler,
    "stratified": _stratified,
    # With the same sizes for all inputs, passes that drop tokens can be grouped by the number of tokens left.
    "shared": partial(_stratified, levels=shared_levels),
    "leverage": partial(_stratified, leverage=True),
}

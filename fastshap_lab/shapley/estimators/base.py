"""What every estimator of Shapley values does: spend evaluations of a game, and say what is known so far."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley.game import Game, check_players

# Coalitions, of all inputs together, that are asked for at a time: enough to keep a game's own chunks full.
_BLOCK = 4096


@dataclass(frozen=True)
class Estimate:
    """Shapley values as far as they are known.

    Args:
        phi: float64, on the CPU.
        stderr: Standard errors, float64, on the CPU: zero where the values are exact, ``inf`` where nothing can be said
            yet. Classes and players share coalitions, so their errors are correlated.
        evaluations: Coalitions evaluated of each input; grand and null come on top.

    Example:
        >>> Estimate(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), 6).evaluations
        6
    """

    phi: Float[Tensor, "B P K"]
    stderr: Float[Tensor, "B P K"]
    evaluations: int


class Estimator(ABC):
    """Gathers evidence about the Shapley values of one batch of inputs.

    Every input gets the same coalitions, drawn from the seed alone: neither the batch an input is in nor how a budget
    is split over calls changes a draw, and values only by rounding.

    Args:
        game: Asked for grand and null once, here, and for the values of coalitions in blocks.
        inputs: What the game takes.
        seed: Of all draws.

    Raises:
        UserError: The game has fewer than two players.

    Example:
        >>> from fastshap_lab.shapley import ESTIMATORS, FunctionGame
        >>> sizes = FunctionGame(lambda inputs, coalitions: coalitions.sum(dim=2, keepdim=True).float(), 3)
        >>> estimator = ESTIMATORS["permutation"](sizes, torch.zeros(1, 1))
        >>> estimator.advance(12)
        >>> estimator.estimate().phi.squeeze().tolist()
        [1.0, 1.0, 1.0]
    """

    _evidence: ClassVar[tuple[str, ...]] = ()  # attributes, all tensors, that hold what was learned

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0) -> None:
        check_players(game.num_players)
        self.game, self.inputs, self.seed = game, inputs, seed
        self.num_players = game.num_players
        with torch.no_grad():
            self.grand = game.grand(inputs).cpu().double()  # (B, K); on the CPU: not every device has float64
            self.null = game.null(inputs).cpu().double().expand_as(self.grand)
        # Of all values met so far, which tell how far one that was not met may be off.
        self.lowest, self.highest = torch.minimum(self.grand, self.null), torch.maximum(self.grand, self.null)
        self.evaluations = 0  # made, of each input
        self.granted = 0  # allowed, of which what buys no whole sample is left over

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the fewest evaluations after which standard errors are known."""
        return 2

    @classmethod
    def check_budget(cls, num_players: int, budget: int) -> None:
        """Raise a ``UserError`` if the estimator cannot use a budget. By default it can use any.

        Args:
            num_players: Number of players P.
            budget: Number of evaluations of each input.
        """
        return

    @classmethod
    def next_look(cls, num_players: int, wanted: int, budget: int) -> int:
        """Return how many evaluations to make before a tolerance is checked, from ``wanted`` to ``budget``.

        Args:
            num_players: Number of players P.
            wanted: Smallest number of evaluations to check at.
            budget: Largest number of evaluations.
        """
        return min(wanted, budget)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to learn: the values are exact."""
        return False

    def advance(self, evaluations: int) -> None:
        """Spend up to so many further evaluations of each input; what is left over is kept for the next call."""
        if evaluations < 0:
            raise ValueError(f"evaluations cannot be taken back, got {evaluations}")
        self.granted += evaluations
        self._spend()

    @abstractmethod
    def _spend(self) -> None:
        """Make evaluations until ``granted`` allows no further sample, or nothing is left to learn."""

    @abstractmethod
    def estimate(self) -> Estimate:
        """Return what is known so far."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what an estimator of the same game, inputs and seed needs to continue as if never interrupted."""
        counts = torch.tensor([self._identity(), self.evaluations, self.granted])
        return {"counts": counts} | {name: getattr(self, name).clone() for name in self._evidence_names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where another run stopped.

        Raises:
            UserError: The state is of another estimator, seed, or shape of game.
        """
        if state.keys() != {"counts", *self._evidence_names} or int(state["counts"][0]) != self._identity():
            raise UserError(f"{type(self).__name__}: the state to resume is of another estimator, seed or game")
        _, self.evaluations, self.granted = state["counts"].tolist()
        for name in self._evidence_names:
            setattr(self, name, state[name].clone())

    @property
    def _evidence_names(self) -> tuple[str, ...]:
        return (*self._evidence, "lowest", "highest")

    def _identity(self) -> int:
        return derive_seed(type(self).__name__, self.seed, self.num_players, *self.grand.shape)

    def _values(self, coalitions: Bool[Tensor, "M P"]) -> Float[Tensor, "B M K"]:
        """Return the values of the same coalitions for every input, float64 on the CPU, and count them."""
        asked = coalitions.to(self.inputs.device).expand(len(self.inputs), -1, -1)
        with torch.no_grad():
            parts = [self.game.values(self.inputs, part) for part in asked.split(self._block, dim=1)]
        self.evaluations += len(coalitions)
        values = torch.cat(parts, dim=1).cpu().double()
        self.lowest = torch.minimum(self.lowest, values.amin(dim=1))
        self.highest = torch.maximum(self.highest, values.amax(dim=1))
        return values

    def _not_certain(self, stderr: Float[Tensor, "B P K"], share: Float[Tensor, "#P 1"] | float) -> Tensor:
        """Return standard errors of incomplete evidence without zeros, which would claim exact values.

        Evidence that happens to agree says nothing about the coalitions that are missing. By the rule of succession one
        of n + 1 may differ, and by as much as two values of the class did; where all of these have been the same, by as
        much as two of the input's other classes; and by nobody knows how much where these have been, too.

        Args:
            stderr: As the evidence has them.
            share: How much of a difference between values a standard error is, if one of n + 1 samples shows it.
        """
        spread = (self.highest - self.lowest).unsqueeze(1)  # (B, 1, K)
        possible = torch.where(spread > 0, spread, spread.amax(dim=2, keepdim=True))
        at_least = torch.where(possible > 0, possible * share, torch.inf)
        return torch.where(stderr > 1e-12 * spread, stderr, at_least)

    @property
    def _block(self) -> int:
        """Coalitions of each input to ask for at a time."""
        return max(1, _BLOCK // len(self.inputs))


class SequentialEstimator(Estimator):
    """Works through one sequence of samples that the seed alone determines, each a few coalitions."""

    sample_size: int  # coalitions of a sample

    @property
    def num_samples(self) -> int:
        """Samples taken so far."""
        return self.evaluations // self.sample_size

    @property
    def max_samples(self) -> int | None:
        """Samples after which nothing is left to learn, if that ever happens."""
        return None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to learn: the values are exact."""
        return self.num_samples == self.max_samples

    def _spend(self) -> None:
        stop = self.granted // self.sample_size
        if self.max_samples is not None:
            stop = min(stop, self.max_samples)
        while (start := self.num_samples) < stop:
            samples = self._samples(start, min(stop, start + max(1, self._block // self.sample_size)))
            values = self._values(samples.flatten(0, 1)).unflatten(1, samples.shape[:2])
            self._learn(start, samples, values)

    @abstractmethod
    def _samples(self, start: int, stop: int) -> Bool[Tensor, "N M P"]:
        """Return the coalitions of samples ``start … stop-1`` of the sequence."""

    @abstractmethod
    def _learn(self, start: int, samples: Bool[Tensor, "N M P"], values: Float[Tensor, "B N M K"]) -> None:
        """Take in the values of consecutive samples, the first of which is number ``start``."""

    def _generator(self, sample: int) -> torch.Generator:
        """Return the generator of one sample's draws."""
        return torch.Generator().manual_seed(derive_seed(self.seed, type(self).__name__, sample))

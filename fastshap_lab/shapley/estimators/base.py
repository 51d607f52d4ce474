"""The base of all estimators: they spend evaluations of a game, and return the estimate that these allow."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley.game import Game, check_players

# Number of coalitions, over all inputs, that are evaluated in one call: enough to fill a game's own batches.
_BLOCK = 4096


@dataclass(frozen=True)
class Estimate:
    """Estimated Shapley values with their standard errors.

    Args:
        phi: Shapley values, float64, on the CPU.
        stderr: Standard errors of the values, float64, on the CPU: zero for exact values, ``inf`` where the error is
            not known yet. Classes and players share coalitions, so their errors are correlated.
        evaluations: Number of coalitions evaluated for each input, without the grand and the null coalition.

    Example:
        >>> from fastshap_lab.shapley import FunctionGame, shapley_values
        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> estimate = shapley_values(FunctionGame(worth, 2), torch.zeros(1, 1), "exact", budget=2)
        >>> estimate.phi.flatten().tolist(), estimate.stderr.flatten().tolist(), estimate.evaluations
        ([2.0, 3.0], [0.0, 0.0], 2)
    """

    phi: Float[Tensor, "B P K"]
    stderr: Float[Tensor, "B P K"]
    evaluations: int


class Estimator(ABC):
    """Estimates the Shapley values of one batch of inputs from more and more evaluations of a game.

    All inputs are evaluated with the same coalitions, which depend on the seed alone. Neither the other inputs of a
    batch nor the way in which a budget is split over calls changes a draw; they change values by rounding only.

    Args:
        game: The game to explain. The constructor evaluates the grand and the null coalition.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing coalitions.

    Raises:
        UserError: The game has fewer than two players.

    Example:
        >>> from fastshap_lab.shapley import FunctionGame, KernelSHAP
        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> estimator: Estimator = KernelSHAP(FunctionGame(worth, 2), torch.zeros(1, 1))
        >>> estimator.advance(2)
        >>> estimator.complete, estimator.estimate().phi.flatten()
        (True, tensor([2., 3.], dtype=torch.float64))
    """

    _evidence: ClassVar[tuple[str, ...]] = ()  # names of the attributes, all tensors, that hold the results so far

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0) -> None:
        check_players(game.num_players)
        self.game, self.inputs, self.seed = game, inputs, seed
        self.num_players = game.num_players
        with torch.no_grad():
            self.grand = game.grand(inputs).cpu().double()  # (B, K); on the CPU: not every device has float64
            self.null = game.null(inputs).cpu().double().expand_as(self.grand)
        # The range of all values so far, (B, K) each: it bounds how far a coalition not yet evaluated may be off.
        self.lowest, self.highest = torch.minimum(self.grand, self.null), torch.maximum(self.grand, self.null)
        self.evaluations = 0  # coalitions evaluated for each input
        self.granted = 0  # evaluations allowed for each input; a rest that makes no whole sample is not spent yet

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the smallest number of evaluations after which standard errors are known."""
        return 2

    @classmethod
    def check_budget(cls, num_players: int, budget: int) -> None:
        """Check that the estimator can use a number of evaluations; most can use any number.

        Args:
            num_players: Number of players P.
            budget: Number of coalitions to evaluate for each input.

        Raises:
            UserError: The estimator cannot use so many evaluations.
        """
        return

    @classmethod
    def next_look(cls, num_players: int, wanted: int, budget: int) -> int:
        """Return the number of evaluations after which a tolerance is checked next.

        Args:
            num_players: Number of players P.
            wanted: Number of evaluations after which a check is due.
            budget: Largest number of evaluations.
        """
        return min(wanted, budget)

    @property
    def complete(self) -> bool:
        """Whether further evaluations are of no use, since the values are exact."""
        return False

    def advance(self, evaluations: int) -> None:
        """Spend further evaluations of each input; a rest that makes no whole sample is spent by a later call.

        Raises:
            ValueError: The number is negative.
        """
        if evaluations < 0:
            raise ValueError(f"evaluations={evaluations}: must be 0 or more")
        self.granted += evaluations
        self._spend()

    @abstractmethod
    def _spend(self) -> None:
        """Evaluate coalitions until ``granted`` allows no further sample, or the values are exact."""

    @abstractmethod
    def estimate(self) -> Estimate:
        """Return the values and standard errors that the evaluations so far allow."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state with which an estimator of the same game, inputs and seed continues the run unchanged."""
        counts = torch.tensor([self._identity(), self.evaluations, self.granted])
        return {"counts": counts} | {name: getattr(self, name).clone() for name in self._evidence_names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue the run that a state was taken from.

        Raises:
            UserError: The state belongs to another estimator or seed, or to a game of another shape.
        """
        if state.keys() != {"counts", *self._evidence_names} or int(state["counts"][0]) != self._identity():
            raise UserError(f"{type(self).__name__}: the state to resume belongs to another estimator, seed or game")
        _, self.evaluations, self.granted = state["counts"].tolist()
        for name in self._evidence_names:
            setattr(self, name, state[name].clone())

    @property
    def _evidence_names(self) -> tuple[str, ...]:
        return (*self._evidence, "lowest", "highest")

    def _identity(self) -> int:
        return derive_seed(type(self).__name__, self.seed, self.num_players, *self.grand.shape)

    def _values(self, coalitions: Bool[Tensor, "M P"]) -> Float[Tensor, "B M K"]:
        """Evaluate the same coalitions for every input, count them, and return their values, float64 on the CPU."""
        expanded = coalitions.to(self.inputs.device).expand(len(self.inputs), -1, -1)
        with torch.no_grad():
            parts = [self.game.values(self.inputs, part) for part in expanded.split(self._block, dim=1)]
        self.evaluations += len(coalitions)
        values = torch.cat(parts, dim=1).cpu().double()
        self.lowest = torch.minimum(self.lowest, values.amin(dim=1))
        self.highest = torch.maximum(self.highest, values.amax(dim=1))
        return values

    def _not_certain(self, stderr: Float[Tensor, "B P K"], share: Float[Tensor, "#P 1"] | float) -> Tensor:
        """Return standard errors in which zeros are replaced: before all coalitions are evaluated no value is exact.

        Samples that happen to agree say nothing about the coalitions that are missing. By the rule of succession, one
        of n + 1 samples may differ. The difference is taken to be the range of the class's values so far, or, if this
        is zero, the largest range among the input's classes; if all ranges are zero, the standard error is ``inf``.

        Args:
            stderr: Standard errors computed from the samples.
            share: Standard error that results if one of n + 1 samples differs, as a share of the difference.
        """
        spread = (self.highest - self.lowest).unsqueeze(1)  # (B, 1, K)
        possible = torch.where(spread > 0, spread, spread.amax(dim=2, keepdim=True))
        at_least = torch.where(possible > 0, possible * share, torch.inf)
        return torch.where(stderr > 1e-12 * spread, stderr, at_least)

    @property
    def _block(self) -> int:
        """Number of coalitions of each input to evaluate in one call."""
        return max(1, _BLOCK // len(self.inputs))


class SequentialEstimator(Estimator):
    """An estimator that works through one sequence of samples, each of a few coalitions; the seed fixes the sequence.

    Example:
        A sample of ``Permutation`` is a pair of orders, which costs 2 (P-1) evaluations.

        >>> from fastshap_lab.shapley import FunctionGame, Permutation
        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> estimator: SequentialEstimator = Permutation(FunctionGame(worth, 2), torch.zeros(1, 1))
        >>> estimator.advance(5)
        >>> estimator.sample_size, estimator.num_samples
        (2, 2)
    """

    sample_size: int  # number of coalitions of a sample

    @property
    def num_samples(self) -> int:
        """Number of samples so far."""
        return self.evaluations // self.sample_size

    @property
    def max_samples(self) -> int | None:
        """Number of samples after which the values are exact, or None if they never are."""
        return None

    @property
    def complete(self) -> bool:
        """Whether further evaluations are of no use, since the values are exact."""
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
        """Return the coalitions of the samples ``start … stop-1`` of the sequence."""

    @abstractmethod
    def _learn(self, start: int, samples: Bool[Tensor, "N M P"], values: Float[Tensor, "B N M K"]) -> None:
        """Update the sums with the values of consecutive samples, the first of which has the number ``start``."""

    def _generator(self, sample: int) -> torch.Generator:
        """Return the random generator of one sample."""
        return torch.Generator().manual_seed(derive_seed(self.seed, type(self).__name__, sample))

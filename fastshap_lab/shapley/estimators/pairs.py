"""The base of estimators that evaluate coalitions together with their complements."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from fastshap_lab.shapley.designs import PairDesign, num_pairs, pair_design
from fastshap_lab.shapley.estimators.base import Estimator
from fastshap_lab.shapley.game import Game


class PairEstimator(Estimator):
    """An estimator that evaluates the pairs of a design, which grows with the budget, each pair once.

    Args:
        game: The game to explain.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing coalitions.

    Example:
        The only pair of two players is a single player and the other one; its values are 1 and 2.

        >>> from fastshap_lab.shapley import FunctionGame, KernelSHAP
        >>> def worth(inputs, present):
        ...     alone = present.double() @ torch.tensor([[1.0], [2.0]]).double()
        ...     return alone + 2 * present.all(dim=2, keepdim=True)
        >>> estimator: PairEstimator = KernelSHAP(FunctionGame(worth, 2), torch.zeros(1, 1))
        >>> estimator.advance(2)
        >>> estimator.differences.abs()
        tensor([[[1.]]], dtype=torch.float64)
    """

    allocation: str = "kernel"  # entry of ``designs.ALLOCATIONS``
    _evidence = ("differences",)

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0) -> None:
        super().__init__(game, inputs, seed)
        # v(S) - v(N without S) of each pair of the design, (B, M, K).
        self.differences = self.grand.new_empty(len(inputs), 0, self.grand.shape[1])

    @classmethod
    def from_pairs(cls, other: "PairEstimator") -> "PairEstimator":
        """Return an estimator with the evaluations and the design of another one; nothing is evaluated."""
        estimator = cls.__new__(cls)
        vars(estimator).update(vars(other), allocation=other.allocation)
        return estimator

    @property
    def complete(self) -> bool:
        """Whether every coalition has been evaluated."""
        return self.differences.shape[1] == num_pairs(self.num_players)

    def design(self) -> PairDesign:
        """Return the pairs that have been evaluated."""
        return pair_design(self.num_players, self.differences.shape[1], self.allocation, self.seed)

    def _spend(self) -> None:
        before = self.design().stratum.bincount(minlength=self.num_players // 2)
        design = pair_design(self.num_players, self.granted // 2, self.allocation, self.seed)
        counts = design.stratum.bincount(minlength=self.num_players // 2)
        place = torch.arange(len(design.stratum)) - (counts.cumsum(0) - counts)[design.stratum]
        new = place >= before[design.stratum]
        if not new.any():
            return
        differences = self.differences.new_empty(len(self.inputs), len(new), self.differences.shape[2])
        differences[:, ~new] = self.differences
        missing = design.coalitions[new]
        for part, chosen in zip(missing.split(self._block), new.nonzero().squeeze(1).split(self._block), strict=True):
            values = self._values(torch.cat([part, ~part]))
            differences[:, chosen] = values[:, : len(part)] - values[:, len(part) :]
        self.differences = differences

"""Shapley values of any model, estimated image by image."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastshap_lab.attribution.perturbation_method import Classes, PerturbationMethod, default_grid
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.shapley.estimators import ESTIMATORS, shapley_values
from fastshap_lab.shapley.grid import PlayerGrid


class ShapleyMethod(PerturbationMethod):
    """Shapley values of patches, an absent one taking the baseline colour, by one of ``shapley.ESTIMATORS``.

    Every image gets the same coalitions. What they add up to is the answer to the image less that to the baseline.

    Args:
        model: Takes images to logits.
        grid: Rows and columns of patches; by default those of ``default_grid``.
        budget: Copies of an image, at most; that and the baseline come on top.
        seed: Of the coalitions.
        baseline: Colour of absent patches, in units of the input; by default the model's mean colour.
        link: Entry of ``shapley.game.LINKS``: the space of the values.
        bf16: See ``PerturbationMethod``.
        max_batch: Copies per pass.
    """

    estimator: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        grid: tuple[int, int] | None = None,
        budget: int = 2048,
        seed: int = 0,
        baseline: Sequence[float] | None = None,
        link: str = "softmax",
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, baseline, link, bf16, max_batch)
        self.grid, self.budget, self.seed, self.unit = grid, budget, seed, link

    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        size = image.shape[1], image.shape[2]
        players = PlayerGrid(size, self.grid or default_grid(self.model, size))
        estimator, number = ESTIMATORS[self.estimator], players.num_players
        if self.budget < estimator.smallest_budget(number):
            raise UserError(
                f"{type(self).__name__}: budget={self.budget}: too small for {number} patches, "
                f"{estimator.smallest_budget(number)} or more will do"
            )
        game = self._game(players, colour)
        found = shapley_values(game, image.unsqueeze(0), self.estimator, budget=self.budget, seed=self.seed)
        return players.to_grid(found.phi)[0, classes].to(image)


class KernelSHAPValues(ShapleyMethod):
    """Shapley values of patches by ``shapley.KernelSHAP``."""

    estimator = "kernel_shap"


class KrigingValues(ShapleyMethod):
    """Shapley values of patches by ``shapley.estimators.Kriging``: the closest for most models and budgets."""

    estimator = "kriging"


class LeverageSHAPValues(ShapleyMethod):
    """Shapley values of patches by ``shapley.estimators.LeverageSHAP``."""

    estimator = "leverage"


class PermutationValues(ShapleyMethod):
    """Shapley values of patches by ``shapley.estimators.Permutation``."""

    estimator = "permutation"

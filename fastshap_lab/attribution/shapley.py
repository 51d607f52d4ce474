"""Shapley values of any model, estimated image by image."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastshap_lab.attribution.perturbation_method import GivenPlayers, PlayersMethod
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.models.game import ModelGame
from fastshap_lab.shapley.estimators import ESTIMATORS, shapley_values


class ShapleyMethod(PlayersMethod):
    """Shapley values of players, an absent one taking the baseline colour, by one of ``shapley.ESTIMATORS``.

    Every image gets the same coalitions. What they add up to is the answer to the image less that to the baseline.

    Args:
        model: Takes images to logits.
        players: See ``GivenPlayers``; by default the patches of ``default_grid``.
        budget: Copies of an image, at most; that and the baseline come on top.
        seed: Of the coalitions.
        baseline: Colour of absent players, in units of the input; by default the model's mean colour.
        link: See ``PerturbationMethod``: the space of the values.
        bf16: See ``PerturbationMethod``.
        max_batch: Copies per pass.
    """

    estimator: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        players: GivenPlayers | None = None,
        budget: int = 2048,
        seed: int = 0,
        baseline: Sequence[float] | None = None,
        link: str | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, players, baseline, link, bf16, max_batch)
        self.budget, self.seed = budget, seed

    def _values_of_players(self, game: ModelGame, image: Tensor) -> Tensor:
        estimator, number = ESTIMATORS[self.estimator], game.num_players
        if self.budget < estimator.smallest_budget(number):
            raise UserError(
                f"{type(self).__name__}: budget={self.budget}: too small for {number} players, "
                f"{estimator.smallest_budget(number)} or more will do"
            )
        return shapley_values(game, image, self.estimator, budget=self.budget, seed=self.seed).phi.to(image)


class KernelSHAPValues(ShapleyMethod):
    """Shapley values of players by ``shapley.KernelSHAP``."""

    estimator = "kernel_shap"


class KrigingValues(ShapleyMethod):
    """Shapley values of players by ``shapley.estimators.Kriging``: the closest for most models and budgets."""

    estimator = "kriging"


class LeverageSHAPValues(ShapleyMethod):
    """Shapley values of players by ``shapley.estimators.LeverageSHAP``."""

    estimator = "leverage"


class PermutationValues(ShapleyMethod):
    """Shapley values of players by ``shapley.estimators.Permutation``."""

    estimator = "permutation"

"""Shapley values of any model, estimated for each image."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastshap_lab.attribution.perturbation_method import GivenPlayers, PlayersMethod
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.models.game import ModelGame
from fastshap_lab.shapley.estimators import ESTIMATORS, shapley_values


class ShapleyMethod(PlayersMethod):
    """Base class of methods that estimate Shapley values of players by one of ``shapley.ESTIMATORS``.

    Absent players take the baseline colour. All images get the same coalitions. The values add up to the output for the
    image minus the output for the baseline.

    Args:
        model: Model that maps images to logits.
        players: Players of every image, see ``GivenPlayers``; by default the patches of ``default_grid``.
        budget: Largest number of copies per image, not counting the image itself and the baseline.
        seed: Seed for drawing coalitions.
        baseline: Colour of absent players, one number per channel in units of the input; by default the model's mean
            colour.
        link: Space of the values, see ``PerturbationMethod``.
        bf16: Run passes in bfloat16, see ``PerturbationMethod``.
        max_batch: Number of copies per pass.

    Raises:
        UserError: From ``attribute``: the budget is too small for the players.

    Example:
        >>> import torch
        >>> class ExactValues(ShapleyMethod):
        ...     estimator = "exact"
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 4.0]], [[1.0, 1.0]]]])
        >>> ExactValues(model, players=(1, 2), link="logits").attribute(image, target=0).tolist()
        [[[4.0, 2.0]]]
    """

    estimator: ClassVar[str]
    """Entry of ``shapley.ESTIMATORS``."""

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
                f"{type(self).__name__}: budget={self.budget}: too small for {number} players: must be at least "
                f"{estimator.smallest_budget(number)}"
            )
        return shapley_values(game, image, self.estimator, budget=self.budget, seed=self.seed).phi.to(image)


class KernelSHAPValues(ShapleyMethod):
    """Shapley values of players by ``shapley.KernelSHAP``. Arguments are those of ``ShapleyMethod``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 4.0], [0.0, -4.0]], [[1.0, 1.0], [1.0, 1.0]]]])
        >>> maps = KernelSHAPValues(model, players=(2, 2), budget=64, link="logits").attribute(image, target=0)
        >>> (maps.round(decimals=3) + 0.0).tolist()
        [[[2.0, 1.0], [0.0, -1.0]]]
    """

    estimator = "kernel_shap"


class KrigingValues(ShapleyMethod):
    """Shapley values of players by ``shapley.estimators.Kriging``, the most precise for most models and budgets.

    Arguments are those of ``ShapleyMethod``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 4.0], [0.0, -4.0]], [[1.0, 1.0], [1.0, 1.0]]]])
        >>> maps = KrigingValues(model, players=(2, 2), budget=64, link="logits").attribute(image, target=0)
        >>> (maps.round(decimals=3) + 0.0).tolist()
        [[[2.0, 1.0], [0.0, -1.0]]]
    """

    estimator = "kriging"


class LeverageSHAPValues(ShapleyMethod):
    """Shapley values of players by ``shapley.estimators.LeverageSHAP``. Arguments are those of ``ShapleyMethod``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 4.0], [0.0, -4.0]], [[1.0, 1.0], [1.0, 1.0]]]])
        >>> maps = LeverageSHAPValues(model, players=(2, 2), budget=64, link="logits").attribute(image, target=0)
        >>> (maps.round(decimals=3) + 0.0).tolist()
        [[[2.0, 1.0], [0.0, -1.0]]]
    """

    estimator = "leverage"


class PermutationValues(ShapleyMethod):
    """Shapley values of players by ``shapley.estimators.Permutation``. Arguments are those of ``ShapleyMethod``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 4.0], [0.0, -4.0]], [[1.0, 1.0], [1.0, 1.0]]]])
        >>> maps = PermutationValues(model, players=(2, 2), budget=64, link="logits").attribute(image, target=0)
        >>> (maps.round(decimals=3) + 0.0).tolist()
        [[[2.0, 1.0], [0.0, -1.0]]]
    """

    estimator = "permutation"

"""Shapley values of any model, estimated image by image."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fastshap_lab.attribution.perturbation_method import Classes, PerturbationMethod, default_grid
from fastshap_lab.config import Count
from fastshap_lab.errors import UserError, check_max_batch
from fastshap_lab.shapley.estimators import ESTIMATORS, shapley_values
from fastshap_lab.shapley.grid import PlayerGrid


class BaselineGame:
    """The value function of any model: absent players take a colour. No gradients.

    Args:
        model: Takes images to logits, in the mode it is in.
        grid: The players.
        colour: Of what is absent.
        link: From logits to values.
        max_batch: Copies of images per pass. Changes values by rounding only.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        grid: PlayerGrid,
        colour: Float[Tensor, "C 1 1"],
        link: Callable[[Tensor], Tensor],
        max_batch: int = 32,
    ) -> None:
        check_max_batch(max_batch)
        self.model, self.grid, self.colour, self.link, self.max_batch = model, grid, colour, link, max_batch
        self.num_players = grid.num_players

    @torch.no_grad()
    def values(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the value of each coalition."""
        number = coalitions.shape[1]
        owners = torch.arange(len(image), device=image.device).repeat_interleave(number)
        rows = zip(owners.split(self.max_batch), coalitions.flatten(0, 1).split(self.max_batch), strict=True)
        logits = [
            self.model(torch.where(self.grid.to_pixels(present.unsqueeze(1))[:, 0], image[owner], self.colour))
            for owner, present in rows
        ]
        return self.link(torch.cat(logits)).unflatten(0, (len(image), number))

    def grand(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the value when every player is present."""
        return self.values(image, self._all(len(image), True, image.device)).squeeze(1)

    def null(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "#B K"]:
        """Return the value when no player is present, which is the same for every image."""
        return self.values(image[:1], self._all(1, False, image.device)).squeeze(1)

    def __call__(
        self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return values, grand and null."""
        return self.values(image, coalitions), self.grand(image), self.null(image)

    def _all(self, batch_size: int, present: bool, device: torch.device) -> Tensor:
        return torch.full((batch_size, 1, self.num_players), present, device=device)


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
        game = BaselineGame(self._logits, players, colour, self.link, self.max_batch)
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

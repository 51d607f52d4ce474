"""Random maps: the lower bound that every method should exceed."""

import hashlib
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind
from fastshap_lab.attribution.perturbation_method import MAX_GRID_SIDE, finest_grid
from fastshap_lab.components import Count
from fastshap_lab.seeding import derive_seed


class Random(AttributionMethod):
    """Maps of standard normal noise, determined by a seed and the image's content.

    Args:
        model: Model to explain; it is never run.
        grid: Rows and columns of the map; by default those of ``finest_grid``, with 14 in place of 1.
        seed: Seed of the noise.
        max_batch: Number of images per step.

    Example:
        >>> image = torch.rand(2, 3, 8, 8)
        >>> first, second = (Random(nn.Identity(), grid=(2, 4)).attribute(image) for _ in range(2))
        >>> first.shape, torch.equal(first, second)
        (torch.Size([2, 2, 4]), True)
    """

    kind: ClassVar[Kind] = "attribution"
    class_specific = False
    uncalled = uninformed = True

    def __init__(
        self, model: nn.Module, grid: tuple[int, int] | None = None, seed: int = 0, max_batch: Count = 32
    ) -> None:
        super().__init__(model, max_batch)
        self.grid, self.seed = grid, seed

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        sides = image.shape[2:]
        fitting = finest_grid(self.model, (sides[0], sides[1]))
        grid = self.grid or [min(side, MAX_GRID_SIDE) if n == 1 else n for n, side in zip(fitting, sides, strict=True)]
        return torch.stack([torch.randn(grid, generator=self._generator(one)) for one in image]).to(image)

    def _generator(self, image: Tensor) -> torch.Generator:
        content = hashlib.sha256(image.float().cpu().numpy().tobytes()).hexdigest()
        return torch.Generator().manual_seed(derive_seed("random map", self.seed, content))

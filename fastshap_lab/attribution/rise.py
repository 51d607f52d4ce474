"""RISE: randomized input sampling for explanation."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.base import Kind, upsample
from fastshap_lab.attribution.perturbation_method import Classes, GivenPlayers, PerturbationMethod, faded, given_players
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.shapley.players import Players, as_players


class RandomMasks:
    """Smooth random masks in [0, 1]: coarse cells kept or not, interpolated, and shifted by less than a cell.

    Args:
        number: Of masks.
        image_size: Height and width.
        cells: Of the coarse grid, each way.
        keep: Probability that a cell is kept, which is also each pixel's expected mask.
        seed: Of all draws.
    """

    def __init__(self, number: int, image_size: tuple[int, int], cells: int, keep: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.image_size = image_size
        self.cell = math.ceil(image_size[0] / cells), math.ceil(image_size[1] / cells)
        self.present = torch.rand(number, cells, cells, generator=generator) < keep
        self.shifts = [torch.randint(side, (number,), generator=generator).tolist() for side in self.cell]

    def __call__(self, like: Tensor, start: int, stop: int) -> Float[Tensor, "M H W"]:
        """Return masks ``start … stop-1``, of the device and dtype of a tensor."""
        (height, width), cells = self.image_size, self.present.shape[1]
        large = upsample(self.present[start:stop].to(like), ((cells + 1) * self.cell[0], (cells + 1) * self.cell[1]))
        shifts = zip(*(each[start:stop] for each in self.shifts), strict=True)
        return torch.stack([m[y : y + height, x : x + width] for m, (y, x) in zip(large, shifts, strict=True)])


class RandomPlayers:
    """Random masks of players, each kept or not, without smoothing or shifts.

    Args:
        number: Of masks.
        players: On the image.
        keep: Probability that a player is kept.
        seed: Of all draws.
    """

    def __init__(self, number: int, players: Players, keep: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.players = players
        self.present = torch.rand(1, number, players.num_players, generator=generator) < keep

    def __call__(self, like: Tensor, start: int, stop: int) -> Float[Tensor, "M H W"]:
        """Return masks ``start … stop-1``, of the device and dtype of a tensor."""
        return self.players.to_pixels(self.present[:, start:stop].to(like.device))[0, :, 0].to(like)


class RISE(PerturbationMethod):
    """Mean of random masks, each times the answer to the image seen through it, as a share of the expected mask.

    Every image is seen through the same masks. Those of the paper are coarse cells, smoothed and shifted; players may
    take their place.

    Reference: Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421, section 3.

    Args:
        model: Takes images to logits.
        num_masks: Copies of each image.
        cells: Of a mask's coarse grid, each way.
        keep: Probability that a cell is kept.
        coverage: Divide by what masks have let through of each pixel, rather than by what is expected.
        seed: Of the masks.
        baseline: Colour of what is hidden, in units of the input; by default the model's mean colour.
        link: See ``PerturbationMethod``.
        bf16: See ``PerturbationMethod``.
        max_batch: Copies per pass.
        players: What is kept or not in the place of cells, see ``GivenPlayers``.
    """

    kind: ClassVar[Kind] = "score"

    def __init__(
        self,
        model: nn.Module,
        num_masks: int = 4000,
        cells: int = 7,
        keep: float = 0.5,
        coverage: bool = False,
        seed: int = 0,
        baseline: Sequence[float] | None = None,
        link: str | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
        players: GivenPlayers | None = None,
    ) -> None:
        super().__init__(model, baseline, link, bf16, max_batch)
        if num_masks < 1 or cells < 1 or not 0 < keep <= 1:
            asked = f"num_masks={num_masks}, cells={cells}, keep={keep}"
            raise UserError(f"RISE: {asked}: at least 1, at least 1, and a probability above 0 wanted")
        self.num_masks, self.cells, self.keep, self.coverage, self.seed = num_masks, cells, keep, coverage, seed
        self.players = given_players(players)

    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        masks = self._masks((image.shape[1], image.shape[2]))
        total, seen = image.new_zeros(1), torch.zeros_like(image[0])
        for start in range(0, self.num_masks, self.max_batch):
            part = masks(image, start, start + self.max_batch)
            terms = torch.einsum("mk,mhw->khw", self._values(faded(image, part, colour), classes), part)
            total = terms.add_(total)
            seen += part.sum(dim=0)
        if not self.coverage:
            return total / (self.num_masks * self.keep)
        return torch.where(seen > 0, total / torch.where(seen > 0, seen, 1), 0)

    def _masks(self, size: tuple[int, int]) -> RandomMasks | RandomPlayers:
        if self.players is None:
            return RandomMasks(self.num_masks, size, self.cells, self.keep, self.seed)
        return RandomPlayers(self.num_masks, as_players(self.players, size), self.keep, self.seed)

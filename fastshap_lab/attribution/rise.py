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
    """Smooth random masks in [0, 1]: coarse cells are kept or not, interpolated, and shifted by less than a cell.

    Args:
        number: Number of masks.
        image_size: Height and width in pixels.
        cells: Number of rows and of columns of the coarse grid.
        keep: Probability that a cell is kept, which is also the expected mask value of each pixel.
        seed: Seed of all draws.

    Example:
        >>> masks = RandomMasks(10, image_size=(8, 8), cells=2, keep=1.0, seed=0)(torch.zeros(1), 0, 4)
        >>> masks.shape, round(masks.mean().item(), 4)
        (torch.Size([4, 8, 8]), 1.0)
    """

    def __init__(self, number: int, image_size: tuple[int, int], cells: int, keep: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.image_size = image_size
        self.cell = math.ceil(image_size[0] / cells), math.ceil(image_size[1] / cells)
        self.present = torch.rand(number, cells, cells, generator=generator) < keep
        self.shifts = [torch.randint(side, (number,), generator=generator).tolist() for side in self.cell]

    def __call__(self, like: Tensor, start: int, stop: int) -> Float[Tensor, "M H W"]:
        """Return masks ``start`` to ``stop - 1``.

        Args:
            like: Tensor whose device and dtype the masks take.
            start: Index of the first mask.
            stop: Index after the last mask.
        """
        (height, width), cells = self.image_size, self.present.shape[1]
        large = upsample(self.present[start:stop].to(like), ((cells + 1) * self.cell[0], (cells + 1) * self.cell[1]))
        shifts = zip(*(each[start:stop] for each in self.shifts), strict=True)
        return torch.stack([m[y : y + height, x : x + width] for m, (y, x) in zip(large, shifts, strict=True)])


class RandomPlayers:
    """Random masks of players: each player is kept or not, without smoothing or shifts.

    Args:
        number: Number of masks.
        players: Players of the image.
        keep: Probability that a player is kept.
        seed: Seed of all draws.

    Example:
        >>> masks = RandomPlayers(10, as_players((2, 2), (8, 8)), keep=1.0, seed=0)(torch.zeros(1), 0, 4)
        >>> masks.shape, masks.min().item()
        (torch.Size([4, 8, 8]), 1.0)
    """

    def __init__(self, number: int, players: Players, keep: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.players = players
        self.present = torch.rand(1, number, players.num_players, generator=generator) < keep

    def __call__(self, like: Tensor, start: int, stop: int) -> Float[Tensor, "M H W"]:
        """Return masks ``start`` to ``stop - 1``.

        Args:
            like: Tensor whose device and dtype the masks take.
            start: Index of the first mask.
            stop: Index after the last mask.
        """
        return self.players.to_pixels(self.present[:, start:stop].to(like.device))[0, :, 0].to(like)


class RISE(PerturbationMethod):
    """Mean of random masks, each times the output for the image seen through it, divided by the expected mask.

    All images get the same masks. Those of the paper are smoothed and shifted coarse cells; players can replace the
    cells.

    Reference: Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421, section 3.

    Args:
        model: Model that maps images to logits.
        num_masks: Number of masks, and of copies of each image.
        cells: Number of rows and of columns of a mask's coarse grid.
        keep: Probability that a cell is kept.
        coverage: Whether to divide by the mean mask drawn at each pixel, rather than by its expectation ``keep``.
        seed: Seed of the masks.
        baseline: Colour of the hidden part, one number per channel in units of the input; by default the model's mean
            colour.
        link: Space of the output, see ``PerturbationMethod``.
        bf16: Run passes in bfloat16, see ``PerturbationMethod``.
        max_batch: Number of copies per pass.
        players: Players that are kept or not in place of the cells, see ``GivenPlayers``.

    Raises:
        UserError: ``num_masks``, ``cells`` or ``keep`` is out of range.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> black = torch.zeros(1, 2, 2, 2)  # every copy has the probabilities 1/2 and 1/2
        >>> RISE(model, num_masks=20, cells=2, coverage=True).attribute(black, target=0).round(decimals=4).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
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
            given = f"num_masks={num_masks}, cells={cells}, keep={keep}"
            raise UserError(f"RISE: {given}: num_masks and cells must be at least 1, keep above 0 and at most 1")
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

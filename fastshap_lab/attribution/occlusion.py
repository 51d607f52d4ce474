"""Occlusion: what an answer loses when a part of the image is covered."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.perturbation_method import (
    MAX_GRID_SIDE,
    Classes,
    PerturbationMethod,
    PlayersMethod,
    finest_grid,
)
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.models.game import ModelGame


class Occlusion(PerturbationMethod):
    """What the answer loses when a window around a pixel is covered, averaged over the windows with that pixel.

    Windows start at every multiple of the stride until one reaches the border, where it is cut off. Segments of other
    shapes are covered by ``LeaveOneOut``.

    Reference: Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014, arXiv:1311.2901,
    section 4.2.

    Args:
        model: Takes images to logits.
        window: Height and width in pixels; by default twice the stride.
        stride: Down and across, no larger than the window; by default a patch of ``finest_grid``, or a 14th of the side
            where that has one or two, of which a window would be all.
        baseline: Colour of the cover, in units of the input; by default the model's mean colour.
        link: See ``PerturbationMethod``.
        bf16: See ``PerturbationMethod``.
        max_batch: Copies per pass.
    """

    def __init__(
        self,
        model: nn.Module,
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        baseline: Sequence[float] | None = None,
        link: str | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, baseline, link, bf16, max_batch)
        self.window, self.stride = window, stride

    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        size = image.shape[1], image.shape[2]
        windows = self._windows(size)
        whole = self._values(image.unsqueeze(0), classes)
        lost = whole.new_zeros(whole.shape[1], *size)
        count = whole.new_zeros(size)
        for first in range(0, len(windows), self.max_batch):
            part = windows[first : first + self.max_batch]
            copies = image.repeat(len(part), 1, 1, 1)
            for copy, (rows, columns) in zip(copies, part, strict=True):
                copy[:, rows, columns] = colour
            for drop, (rows, columns) in zip(whole - self._values(copies, classes), part, strict=True):
                lost[:, rows, columns] += drop.view(-1, 1, 1)
                count[rows, columns] += 1
        return lost / count

    def _windows(self, size: tuple[int, int]) -> list[tuple[slice, slice]]:
        grid = finest_grid(self.model, size)
        # Windows need not divide the image: where no fine grid does, they start at as many places as on one that would.
        stride = self.stride or tuple(
            n // g if g > 2 else max(1, round(n / MAX_GRID_SIDE)) for n, g in zip(size, grid, strict=True)
        )
        window = self.window or (2 * stride[0], 2 * stride[1])
        if min(stride) < 1 or window[0] < stride[0] or window[1] < stride[1]:
            raise UserError(f"Occlusion: window={window}, stride={stride}: 1 ≤ stride ≤ window wanted, both ways")
        ways = [
            [slice(i * s, i * s + w) for i in range(max(0, math.ceil((n - w) / s)) + 1)]
            for n, w, s in zip(size, window, stride, strict=True)
        ]
        return [(rows, columns) for rows in ways[0] for columns in ways[1]]


class LeaveOneOut(PlayersMethod):
    """What the answer loses when a player is covered: a patch, or a segment; arguments as ``PlayersMethod``."""

    def _values_of_players(self, game: ModelGame, image: Tensor) -> Tensor:
        others = ~torch.eye(game.num_players, dtype=torch.bool, device=image.device)
        return game.grand(image).unsqueeze(1) - game.values(image, others.unsqueeze(0))

"""Occlusion: the drop of an output when a part of the image is covered."""

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
    """The drop of the output when a window is covered, averaged for each pixel over the windows that contain it.

    Windows start at every multiple of the stride until one reaches the image's border, where it is cut off.
    ``LeaveOneOut`` covers segments of other shapes.

    Reference: Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014, arXiv:1311.2901,
    section 4.2.

    Args:
        model: Model that maps images to logits.
        window: Height and width of a window in pixels; by default twice the stride.
        stride: Step between windows, down and across, in pixels, at most the window's size; by default the size of a
            patch of ``finest_grid``. Where that grid has only one or two rows or columns, it is a 14th of the side.
        baseline: Colour of the cover, one number per channel in units of the input; by default the model's mean colour.
        link: Space of the output, see ``PerturbationMethod``.
        bf16: Run passes in bfloat16, see ``PerturbationMethod``.
        max_batch: Number of copies per pass.

    Raises:
        UserError: From ``attribute``: the stride is below 1 or above the window.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]]])
        >>> Occlusion(model, window=(1, 2), stride=(1, 2), link="logits").attribute(image, target=0).tolist()
        [[[2.0, 2.0, 0.0, 0.0]]]
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
        # Windows need not divide the image. Where no fine grid divides it, there are as many windows as on such a grid.
        stride = self.stride or tuple(
            n // g if g > 2 else max(1, round(n / MAX_GRID_SIDE)) for n, g in zip(size, grid, strict=True)
        )
        window = self.window or (2 * stride[0], 2 * stride[1])
        if min(stride) < 1 or window[0] < stride[0] or window[1] < stride[1]:
            raise UserError(f"Occlusion: window={window}, stride={stride}: must be 1 ≤ stride ≤ window in both axes")
        ways = [
            [slice(i * s, i * s + w) for i in range(max(0, math.ceil((n - w) / s)) + 1)]
            for n, w, s in zip(size, window, stride, strict=True)
        ]
        return [(rows, columns) for rows in ways[0] for columns in ways[1]]


class LeaveOneOut(PlayersMethod):
    """The drop of the output when one player (a patch or a segment) is covered.

    Arguments are those of ``PlayersMethod``.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> image = torch.tensor([[[[8.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]])
        >>> LeaveOneOut(model, players=(2, 2), link="logits").attribute(image, target=0).tolist()
        [[[2.0, 0.0], [1.0, 0.0]]]
    """

    def _values_of_players(self, game: ModelGame, image: Tensor) -> Tensor:
        others = ~torch.eye(game.num_players, dtype=torch.bool, device=image.device)
        return game.grand(image).unsqueeze(1) - game.values(image, others.unsqueeze(0))

"""Players on an image: the patches of a grid, or segments of any shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.game import check_players


@runtime_checkable
class Players(Protocol):
    """The players of an image: every pixel belongs to exactly one player.

    Example:
        >>> isinstance(PlayerGrid((8, 8), (2, 2)), Players)
        True
    """

    @property
    def num_players(self) -> int:
        """Number of players P."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""

    @property
    def patch_size(self) -> tuple[float, float]:
        """Height and width of a player in pixels, their mean where players differ."""

    def to_pixels(self, coalitions: Bool[Tensor, "B M P"]) -> Bool[Tensor, "B M 1 H W"]:
        """Return whether each pixel belongs to a present player."""

    def to_map(self, phi: Float[Tensor, "B P K"]) -> Float[Tensor, "B K H W"]:
        """Return the values as maps at image size: every pixel has the value of its whole player."""

    def pool(self, maps: Float[Tensor, "B E rows columns"]) -> Float[Tensor, "B P E"]:
        """Return the mean of maps at image size over each player's pixels."""


@dataclass(frozen=True)
class PlayerGrid:
    """A rectangular grid of equal patches, listed row by row.

    Args:
        image_size: Height and width of the image in pixels.
        shape: Rows and columns of the player grid; rows must divide the height, columns the width.

    Raises:
        UserError: The grid does not divide the image, or has fewer than two players.

    Example:
        >>> grid = PlayerGrid(image_size=(2, 4), shape=(1, 2))
        >>> grid.num_players, grid.patch_size
        (2, (2, 2))
        >>> grid.to_pixels(torch.tensor([[[True, False]]])).int()[0, 0, 0]
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0]], dtype=torch.int32)
    """

    image_size: tuple[int, int]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        (height, width), (rows, columns) = self.image_size, self.shape
        if rows < 1 or columns < 1 or height % rows or width % columns:
            raise UserError(
                f"{rows}×{columns} players do not divide an image of {height}×{width} pixels; "
                f"rows must be one of {_divisors(height)}, columns one of {_divisors(width)}"
            )
        check_players(self.num_players)

    @property
    def num_players(self) -> int:
        """Number of players P."""
        return self.shape[0] * self.shape[1]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a player in pixels."""
        return self.image_size[0] // self.shape[0], self.image_size[1] // self.shape[1]

    def to_pixels(self, coalitions: Bool[Tensor, "B M P"]) -> Bool[Tensor, "B M 1 H W"]:
        """Return whether each pixel belongs to a present player."""
        batch, num_coalitions, _ = coalitions.shape
        (rows, columns), (height, width) = self.shape, self.patch_size
        cells = coalitions.reshape(batch, num_coalitions, 1, rows, 1, columns, 1)
        cells = cells.expand(-1, -1, -1, -1, height, -1, width)
        return cells.reshape(batch, num_coalitions, 1, *self.image_size)

    def to_grid(self, phi: Float[Tensor, "B P K"]) -> Float[Tensor, "B K rows columns"]:
        """Return the values on the player grid, one small map per class."""
        return phi.transpose(1, 2).unflatten(2, self.shape)

    def to_map(self, phi: Float[Tensor, "B P K"]) -> Float[Tensor, "B K H W"]:
        """Return the values as maps at image size: every pixel has the value of its whole player."""
        height, width = self.patch_size
        return self.to_grid(phi).repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)

    def pool(self, maps: Float[Tensor, "B E rows columns"]) -> Float[Tensor, "B P E"]:
        """Return the mean of maps over each player; the maps may have any size that the grid divides.

        Raises:
            ValueError: The grid does not divide the maps.
        """
        (height, width), (rows, columns) = maps.shape[-2:], self.shape
        if height % rows or width % columns:
            raise ValueError(f"{rows}×{columns} players do not divide a map of {height}×{width}")
        return F.adaptive_avg_pool2d(maps, self.shape).flatten(2).transpose(1, 2)


class Segments:
    """Players of any shape: the segments of a label map, such as superpixels or outlined objects.

    A segment need not be connected.

    Args:
        labels: Label map: the number of the player that each pixel belongs to, integers (H, W). The numbers are 0 to
            P - 1, and each of them occurs.

    Raises:
        UserError: The array is no such label map, or has fewer than two segments.

    Example:
        >>> from skimage.data import astronaut
        >>> from skimage.segmentation import slic
        >>> segments = Segments(slic(astronaut()[::4, ::4], n_segments=30, start_label=0))
        >>> segments.image_size, 2 <= segments.num_players <= 30
        ((128, 128), True)
        >>> Segments.grid((10, 10), (3, 3)).labels[5].tolist()
        [3, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    """

    def __init__(self, labels: Tensor | np.ndarray) -> None:
        self.labels: Int[Tensor, "H W"] = _checked(labels)
        self._num_players = int(self.labels.max()) + 1
        self._labels = {self.labels.device: self.labels}  # a copy for every device that has been used

    @classmethod
    def grid(cls, image_size: tuple[int, int], shape: tuple[int, int]) -> "Segments":
        """Return a grid, listed row by row, that need not divide the image: sides of patches may differ by one pixel.

        Args:
            image_size: Height and width of the image in pixels.
            shape: Rows and columns of the grid.

        Raises:
            UserError: There are more rows or columns than pixels, or fewer than two players.
        """
        if any(not 1 <= parts <= side for parts, side in zip(shape, image_size, strict=True)):
            (height, width), (rows, columns) = image_size, shape
            raise UserError(
                f"a grid of {rows}×{columns} players on an image of {height}×{width} pixels: "
                f"must have 1 to {height} rows and 1 to {width} columns"
            )
        row, column = (torch.arange(side) * parts // side for side, parts in zip(image_size, shape, strict=True))
        return cls(row.unsqueeze(1) * shape[1] + column)

    @property
    def num_players(self) -> int:
        """Number of players P."""
        return self._num_players

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def patch_size(self) -> tuple[float, float]:
        """Mean number of rows in which a segment has pixels, and mean number of such columns."""
        height, width = self.image_size
        in_rows = self.labels * height + torch.arange(height).unsqueeze(1)
        in_columns = self.labels * width + torch.arange(width)
        return len(in_rows.unique()) / self.num_players, len(in_columns.unique()) / self.num_players

    def to_pixels(self, coalitions: Bool[Tensor, "B M P"]) -> Bool[Tensor, "B M 1 H W"]:
        """Return whether each pixel belongs to a present player."""
        return coalitions[:, :, None, self._at(coalitions)]

    def to_map(self, phi: Float[Tensor, "B P K"]) -> Float[Tensor, "B K H W"]:
        """Return the values as maps at image size: every pixel has the value of its whole player."""
        return phi.transpose(1, 2)[:, :, self._at(phi)]

    def pool(self, maps: Float[Tensor, "B E rows columns"]) -> Float[Tensor, "B P E"]:
        """Return the mean of maps at image size over each segment's pixels.

        Raises:
            ValueError: The maps have another size.
        """
        if maps.shape[-2:] != self.labels.shape:
            raise ValueError(
                f"maps of size {tuple(maps.shape[-2:])}: must have the size of the label map, {self.image_size}"
            )
        place = self._at(maps).flatten()
        sums = maps.new_zeros(*maps.shape[:2], self.num_players).index_add(2, place, maps.flatten(2))
        return (sums / place.bincount(minlength=self.num_players)).transpose(1, 2)

    def _at(self, tensor: Tensor) -> Int[Tensor, "H W"]:
        """Return the label map on a tensor's device."""
        if tensor.device not in self._labels:
            with torch.inference_mode(False):  # the copy is stored, and autograd may need it in a later call
                self._labels[tensor.device] = self.labels.to(tensor.device)
        return self._labels[tensor.device]


PlayersLike = Players | Sequence[int] | Tensor | np.ndarray
"""``Players``, the rows and columns of a ``PlayerGrid``, or a label map (H, W) for ``Segments``."""


def as_players(players: PlayersLike, image_size: tuple[int, int]) -> Players:
    """Return the players of an image from any of the forms in which a user may state them.

    Args:
        players: ``Players``, rows and columns, or a label map (H, W).
        image_size: Height and width of the image in pixels.

    Raises:
        UserError: The players are for an image of another size, or ``PlayerGrid`` or ``Segments`` refuses them.

    Example:
        >>> as_players((2, 3), image_size=(4, 6)).num_players
        6
        >>> as_players(np.array([[0, 1], [0, 2]]), image_size=(2, 2)).num_players
        3
    """
    if isinstance(players, Players):
        found = players
    elif isinstance(players, (tuple, list)) and len(players) == 2 and all(isinstance(n, Integral) for n in players):
        return PlayerGrid(image_size, (players[0], players[1]))
    elif isinstance(players, (Tensor, np.ndarray)):
        found = Segments(players)
    else:
        raise UserError(f"players of type {type(players).__name__}: must be rows and columns, or a label map (H, W)")
    if found.image_size != tuple(image_size):
        (height, width), (rows, columns) = image_size, found.image_size
        raise UserError(
            f"players: are for images of {rows}×{columns} pixels, but these images have {height}×{width} pixels"
        )
    return found


def _checked(labels: Any) -> Int[Tensor, "H W"]:
    """Return a label map as a new int64 tensor on the CPU.

    Raises:
        UserError: The array is no label map.
    """
    kind = getattr(labels, "dtype", type(labels))
    name = getattr(kind, "name", getattr(kind, "__name__", str(kind).removeprefix("torch.")))
    if not isinstance(labels, (Tensor, np.ndarray)) or not name.startswith(("int", "uint")):
        raise UserError(f"players: a label map of type {name}: must be an array or tensor of integers (H, W)")
    if labels.ndim != 2 or 0 in labels.shape:
        raise UserError(f"players: a label map of shape {tuple(labels.shape)}: must be (H, W), one number per pixel")
    numbers = labels.cpu().numpy() if isinstance(labels, Tensor) else labels
    checked = torch.from_numpy(np.array(numbers, dtype=np.int64))
    found, highest = checked.unique(), int(checked.max())
    if int(found[0]) < 0:
        raise UserError(f"players: a label map with the number {int(found[0])}: segments are numbered from 0")
    if len(found) <= highest:
        missing = int((found != torch.arange(len(found))).nonzero()[0])
        raise UserError(
            f"players: a label map from {int(found[0])} to {highest} without {missing}: segments are numbered 0 to "
            "P - 1, as by numpy.unique(labels, return_inverse=True)[1] or slic(…, start_label=0)"
        )
    check_players(len(found))
    return checked


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]

"""Players on the image: a rectangular grid of equal patches, listed row by row."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.game import check_players


@dataclass(frozen=True)
class PlayerGrid:
    """Translate between players and pixels.

    Args:
        image_size: Height and width of the image in pixels.
        shape: Rows and columns of the player grid; each must divide the image's side.

    Raises:
        UserError: The grid does not divide the image, or has fewer than two players.
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
        """Return the pixels that belong to present players."""
        batch, num_coalitions, _ = coalitions.shape
        (rows, columns), (height, width) = self.shape, self.patch_size
        cells = coalitions.reshape(batch, num_coalitions, 1, rows, 1, columns, 1)
        cells = cells.expand(-1, -1, -1, -1, height, -1, width)
        return cells.reshape(batch, num_coalitions, 1, *self.image_size)

    def to_grid(self, phi: Float[Tensor, "B P K"]) -> Float[Tensor, "B K rows columns"]:
        """Return the values as one small map per class, a number per player."""
        return phi.transpose(1, 2).unflatten(2, self.shape)

    def to_map(self, phi: Float[Tensor, "B P K"]) -> Float[Tensor, "B K H W"]:
        """Return the values as maps at image size; every pixel carries its player's value, undivided."""
        height, width = self.patch_size
        return self.to_grid(phi).repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]

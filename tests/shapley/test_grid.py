import pytest
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.grid import PlayerGrid

GRID = PlayerGrid(image_size=(6, 12), shape=(2, 3))  # patches of 3×4 pixels: every side differs from every other


def player_at(row: int, column: int) -> int:
    return (row // 3) * 3 + column // 4


def test_counts():
    assert GRID.num_players == 6
    assert GRID.patch_size == (3, 4)


def test_pixels_belong_to_their_player():
    coalitions = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    pixels = GRID.to_pixels(coalitions)
    assert pixels.shape == (2, 5, 1, 6, 12)
    for row in range(6):
        for column in range(12):
            assert torch.equal(pixels[:, :, 0, row, column], coalitions[:, :, player_at(row, column)])


def test_map_gives_every_pixel_the_value_of_its_player():
    phi = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    maps = GRID.to_map(phi)
    assert maps.shape == (2, 4, 6, 12)
    for row in range(6):
        for column in range(12):
            assert torch.equal(maps[:, :, row, column], phi[:, player_at(row, column)])


def test_players_are_listed_row_by_row():
    phi = torch.arange(6.0).view(1, 6, 1)
    assert GRID.to_grid(phi)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert GRID.to_map(phi)[0, 0, ::3, ::4].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_one_player_per_pixel():
    grid = PlayerGrid(image_size=(2, 3), shape=(2, 3))
    phi = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(grid.to_map(phi), phi.transpose(1, 2).reshape(1, 2, 2, 3))


@pytest.mark.parametrize("shape", [(4, 3), (2, 5), (0, 3), (2, -3), (12, 6)])
def test_grid_that_does_not_divide_the_image_names_those_that_do(shape: tuple[int, int]):
    with pytest.raises(UserError) as error:
        PlayerGrid(image_size=(6, 12), shape=shape)
    assert f"{shape[0]}×{shape[1]} players do not divide an image of 6×12 pixels" in str(error.value)
    assert "rows must be one of [1, 2, 3, 6], columns one of [1, 2, 3, 4, 6, 12]" in str(error.value)


def test_single_player_is_refused():
    with pytest.raises(UserError, match="players=1: nothing is left to share out; 2 or more are needed"):
        PlayerGrid(image_size=(6, 12), shape=(1, 1))

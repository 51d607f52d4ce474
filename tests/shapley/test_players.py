import numpy as np
import pytest
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.players import PlayerGrid, Players, Segments, as_players

GRID = PlayerGrid(image_size=(6, 12), shape=(2, 3))  # patches of 3×4 pixels: every side differs from every other
OF_GRID = torch.tensor([[(row // 3) * 3 + column // 4 for column in range(12)] for row in range(6)])
# Six segments: some are not connected, one is a single pixel.
UNEVEN = torch.randint(5, (6, 12), generator=torch.Generator().manual_seed(0)).index_put(
    (torch.tensor(2), torch.tensor(7)), torch.tensor(5)
)

every = pytest.mark.parametrize(
    ("players", "labels"),
    [(GRID, OF_GRID), (Segments(OF_GRID), OF_GRID), (Segments(UNEVEN), UNEVEN)],
    ids=["grid", "segments of the grid", "segments"],
)


@every
def test_both_kinds_are_players_of_an_image(players: Players, labels: torch.Tensor):
    assert isinstance(players, Players)
    assert not isinstance(labels, Players)
    assert (players.num_players, players.image_size) == (6, (6, 12))


@every
def test_pixels_belong_to_their_player(players: Players, labels: torch.Tensor):
    coalitions = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    pixels = players.to_pixels(coalitions)
    assert pixels.shape == (2, 5, 1, 6, 12)
    for row in range(6):
        for column in range(12):
            assert torch.equal(pixels[:, :, 0, row, column], coalitions[:, :, labels[row, column]])


@every
def test_map_gives_every_pixel_the_value_of_its_player(players: Players, labels: torch.Tensor):
    phi = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    maps = players.to_map(phi)
    assert maps.shape == (2, 4, 6, 12)
    for row in range(6):
        for column in range(12):
            assert torch.equal(maps[:, :, row, column], phi[:, labels[row, column]])


@every
def test_a_player_takes_the_mean_of_its_pixels(players: Players, labels: torch.Tensor):
    maps = torch.randn(2, 4, 6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps[0, 1, 5, 11] = torch.nan
    pooled = players.pool(maps)
    for player in range(6):
        expected = maps[:, :, labels == player].mean(dim=2)
        torch.testing.assert_close(pooled[:, player], expected, equal_nan=True)
    phi = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(players.pool(players.to_map(phi)), phi)


def test_sizes_of_players():
    assert GRID.patch_size == Segments(OF_GRID).patch_size == (3, 4)
    assert Segments(torch.tensor([[0, 0, 0, 1], [0, 2, 2, 1]])).patch_size == (5 / 3, 2)  # 2×3, 2×1 and 1×2


def test_maps_of_other_sizes_are_pooled_where_the_grid_divides_them_and_refused_elsewhere():
    assert GRID.pool(torch.arange(24.0).view(1, 1, 4, 6))[0, :, 0].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]
    with pytest.raises(ValueError, match="2×3 players do not divide a map of 4×4"):
        GRID.pool(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"maps of size \(4, 6\): must have the size of the label map, \(6, 12\)"):
        Segments(OF_GRID).pool(torch.zeros(1, 1, 4, 6))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">i4", "uint64"])
def test_a_label_map_may_be_of_any_whole_numbers_and_is_copied(dtype: str):
    given = UNEVEN.numpy().astype(dtype)[::-1]  # of negative strides
    segments = Segments(given)
    assert torch.equal(segments.labels, UNEVEN.flip(0))
    given[:] = 0
    assert torch.equal(segments.labels, UNEVEN.flip(0))


def test_a_grid_of_segments_need_not_divide_the_image():
    segments = Segments.grid((7, 11), (3, 4))
    counts = segments.labels.flatten().bincount().view(3, 4)
    assert counts.tolist() == [[9, 9, 9, 6], [6, 6, 6, 4], [6, 6, 6, 4]]
    for labels in (segments.labels, segments.labels.T):
        assert (labels.diff(dim=0) >= 0).all()
    assert torch.equal(Segments.grid((6, 12), (2, 3)).labels, OF_GRID)
    for shape in [(8, 4), (3, 12), (0, 4)]:
        with pytest.raises(UserError, match="on an image of 7×11 pixels: must have 1 to 7 rows and 1 to 11 columns"):
            Segments.grid((7, 11), shape)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (np.zeros((2, 3, 4), dtype=int), r"a label map of shape \(2, 3, 4\): must be \(H, W\), one number per pixel"),
        (np.zeros((0, 3), dtype=int), r"a label map of shape \(0, 3\): must be"),
        (np.zeros((2, 3)), r"a label map of type float64: must be an array or tensor of integers"),
        (torch.zeros(2, 3, dtype=torch.bool), "a label map of type bool: must be an array or tensor of integers"),
        (torch.tensor([[0, 1], [-2, 1]]), "a label map with the number -2: segments are numbered from 0"),
        (
            torch.tensor([[0, 1], [3, 1]]),
            "a label map from 0 to 3 without 2: segments are numbered 0 to P - 1, as by numpy",
        ),
        (torch.tensor([[1, 1], [2, 3]]), "a label map from 1 to 3 without 0: .*start_label=0"),
        (torch.zeros(2, 3, dtype=torch.int), "players=1: a game needs 2 or more players to share its value"),
        ([2, 3, 4], r"players of type list: must be rows and columns, or a label map \(H, W\)"),
        (OF_GRID.T.contiguous(), "players: are for images of 12×6 pixels, but these images have 6×12"),
        (PlayerGrid((6, 6), (2, 3)), "players: are for images of 6×6 pixels, but these images have 6×12"),
        ((4, 3), "4×3 players do not divide an image of 6×12 pixels"),
    ],
)
def test_what_are_no_players_of_an_image_is_one_line(labels: object, line: str):
    with pytest.raises(UserError, match=line) as error:
        as_players(labels, (6, 12))
    assert "\n" not in str(error.value)


def test_players_may_be_given_in_several_ways():
    assert as_players((2, 3), (6, 12)) == as_players([2, 3], (6, 12)) == as_players(GRID, (6, 12)) == GRID
    for given in (OF_GRID, OF_GRID.numpy(), Segments(OF_GRID)):
        assert torch.equal(as_players(given, (6, 12)).labels, OF_GRID)


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
    with pytest.raises(UserError, match="players=1: a game needs 2 or more players to share its value"):
        PlayerGrid(image_size=(6, 12), shape=(1, 1))

import math

import pytest
import torch

from fastshap_lab.metrics import SUBSTRATES
from fastshap_lab.metrics.substrates import constant, gaussian_blur, image_mean, rise_blur
from tests import small

IMAGE = small.images(2, (13, 9)).double()
COLOUR = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64).view(3, 1, 1)


def reflected(index: int) -> int:
    """Return where an index lands in 0 … 10 if the array is mirrored at its borders, the border cells repeated."""
    index %= 22
    return index if index < 11 else 21 - index


def rise_kernel() -> list[list[float]]:
    """Filter a unit impulse in an 11×11 array: each axis with a Gaussian cut off at four σ, borders reflecting."""
    taps = [math.exp(-(offset**2) / 50) for offset in range(-20, 21)]
    line = [
        sum(tap / sum(taps) for offset, tap in enumerate(taps, start=-20) if reflected(place + offset) == 5)
        for place in range(11)
    ]
    return [[row * column for column in line] for row in line]


def gaussian_kernel() -> list[list[float]]:
    line = [math.exp(-((place - 5) ** 2) / 50) for place in range(11)]
    return [[row * column / sum(line) ** 2 for column in line] for row in line]


def blurred(kernel: list[list[float]], c: int, row: int, column: int, repeat_border: bool) -> float:
    total, (height, width) = 0.0, IMAGE.shape[-2:]
    for i in range(-5, 6):
        for j in range(-5, 6):
            y, x = row + i, column + j
            if repeat_border:
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            inside = 0 <= y < height and 0 <= x < width
            total += kernel[i + 5][j + 5] * float(IMAGE[1, c, y, x] if inside else COLOUR[c])
    return total


@pytest.mark.parametrize("c", range(3))
@pytest.mark.parametrize(("row", "column"), [(0, 0), (12, 4), (6, 4), (3, 8)])
def test_blurs_follow_their_definitions(c, row, column):
    rise, gaussian = rise_blur(IMAGE, COLOUR), gaussian_blur(IMAGE, COLOUR)
    assert rise[1, c, row, column].item() == pytest.approx(blurred(rise_kernel(), c, row, column, False))
    assert gaussian[1, c, row, column].item() == pytest.approx(blurred(gaussian_kernel(), c, row, column, True))


def test_the_kernel_of_rise_is_flatter_than_a_gaussian():
    rise, gaussian = torch.tensor(rise_kernel()), torch.tensor(gaussian_kernel())
    assert rise.sum().item() == pytest.approx(1)
    assert ((rise - gaussian).abs().max() / rise.max()).item() == pytest.approx(0.378, abs=0.001)
    assert rise.max() / rise.min() < 1.2 < 2.7 < gaussian.max() / gaussian.min()


def test_colours_fill_the_image():
    assert torch.equal(constant(IMAGE, COLOUR)[1, :, 3, 4], COLOUR.flatten())
    assert torch.equal(constant(IMAGE, IMAGE[0])[1], IMAGE[0])
    torch.testing.assert_close(image_mean(IMAGE, COLOUR)[1, 2, 3, 4], IMAGE[1, 2].mean())


@pytest.mark.parametrize("name", SUBSTRATES)
def test_an_image_of_the_baseline_alone_stays_as_it_is(name):
    image = COLOUR.expand(1, 3, 13, 9).float()
    torch.testing.assert_close(SUBSTRATES[name](image, COLOUR.float()), image)

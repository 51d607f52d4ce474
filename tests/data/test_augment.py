import math

import pytest
import torch

from fastshap_lab.data.augment import Augment, affine


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(64, 3, 12, 20, generator=generator(1))


def warp(images, mirror=1.0, angle=0.0, zoom=1.0, shift=(0.0, 0.0)):
    batch, _, height, width = images.shape
    column = torch.ones(batch)
    matrices = affine(mirror * column, angle * column, zoom * column, torch.tensor([shift] * batch), height, width)
    grid = torch.nn.functional.affine_grid(matrices, images.shape, align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def test_nothing_to_do_returns_the_images_themselves(images):
    assert Augment()(images, generator()) is images


def test_flips_are_exact_and_half_of_the_images_are_flipped(images):
    flipped = Augment(flip=True)(images, generator())
    is_flipped = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    is_same = (flipped == images).all(dim=(1, 2, 3))
    assert (is_flipped ^ is_same).all()
    assert 20 < is_flipped.sum() < 44


@pytest.mark.parametrize(("ours", "numpy_like"), [("zeros", "constant"), ("border", "replicate")])
def test_crops_equal_slices_of_the_padded_image(images, ours, numpy_like):
    cropped = Augment(crop_padding=2, padding_mode=ours)(images, generator())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode=numpy_like)
    slices = {(top, left): padded[:, :, top : top + 12, left : left + 20] for top in range(5) for left in range(5)}
    matches = torch.stack([(cropped == piece).all(dim=(1, 2, 3)) for piece in slices.values()])
    assert matches.any(dim=0).all()  # each image is one of the 25 crops
    assert matches.any(dim=1).sum() > 15  # and they are not all the same one


def test_crops_reflect_at_the_edge():
    row = torch.arange(6.0).div(5).expand(32, 1, 6, 6)
    rows = Augment(crop_padding=1, padding_mode="reflection")(row, generator())[:, 0, 0].mul(5).round().int().tolist()
    assert {tuple(row) for row in rows} == {(0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 5)}


def test_a_quarter_turn_is_clockwise():
    images = torch.rand(2, 3, 9, 9, generator=generator())
    torch.testing.assert_close(warp(images, angle=math.pi / 2), images.rot90(-1, (2, 3)), atol=1e-5, rtol=0)


def test_turns_of_wide_images_keep_distances():
    image = torch.zeros(1, 1, 21, 41)
    image[0, 0, 10, 26] = 1.0  # six to the right of the centre
    turned = warp(image, angle=math.pi / 2)
    torch.testing.assert_close(turned[0, 0, 16, 20].item(), 1.0, atol=1e-4, rtol=0)  # six below it


def test_zoom_and_shift_move_a_point_where_they_should():
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 13] = 1.0
    assert warp(image, zoom=2.0)[0, 0, 10].argmax() == 16
    assert warp(image, shift=(2 / 21, 0.0))[0, 0, 10].argmax() == 12  # the source lies one pixel to the right
    assert warp(image, mirror=-1.0)[0, 0, 10].argmax() == 7


def test_translation_stays_within_its_bound():
    image = torch.zeros(200, 1, 40, 40)
    image[:, :, 19:21, 19:21] = 1.0
    moved = Augment(translate=0.25)(image, generator())
    centre = (moved.sum(dim=(1, 2)) / moved.sum(dim=(1, 2, 3))[:, None]) @ torch.arange(40.0) - 19.5
    assert 4 < centre.abs().max() <= 5.01  # a quarter of half the width


def test_the_generator_alone_decides(images):
    augment = Augment(flip=True, crop_padding=2, rotation=0.3, scale=0.2, translate=0.1)
    first = augment(images, generator(3))
    torch.manual_seed(99)
    assert torch.equal(first, augment(images, generator(3)))
    assert not torch.equal(first, augment(images, generator(4)))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1


def test_each_image_gets_its_own_draw():
    same = torch.rand(1, 3, 16, 16, generator=generator()).expand(8, -1, -1, -1)
    changed = Augment(rotation=0.3)(same, generator())
    assert len({image.numpy().tobytes() for image in changed}) == 8


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_does(images):
    augment = Augment(flip=True, crop_padding=2, rotation=0.3, scale=0.2, translate=0.1)
    on_gpu = augment(images.cuda(), generator()).cpu()
    torch.testing.assert_close(on_gpu, augment(images, generator()), atol=1e-4, rtol=0)

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastshap_lab.data import splits
from fastshap_lab.data.splits import StreamedImages, TensorImages
from fastshap_lab.errors import UserError

IMAGES = torch.randint(256, (50, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 5
PARTS = torch.arange(50).flip(0).split(8)


def streamed(decode=lambda index: IMAGES[index].numpy(), workers=3, ahead=2):
    return StreamedImages(decode, LABELS, (4, 6), workers, ahead)


@pytest.mark.parametrize("workers", [1, 2, 5, 40])
@pytest.mark.parametrize("ahead", [0, 1, 9])
def test_blocks_come_in_order_whoever_decodes_them(workers, ahead):
    def decode(index):
        time.sleep(0.002 * (index % 3))  # some take longer than those after them
        return IMAGES[index].numpy()

    blocks = list(streamed(decode, workers, ahead).blocks(PARTS))
    assert [len(block) for block in blocks] == [8] * 6 + [2]
    assert torch.equal(torch.cat(blocks), IMAGES.flip(0))


def test_both_kinds_answer_alike():
    indices = torch.tensor([7, 3, 3, 49])
    for split in (TensorImages(IMAGES, LABELS), streamed(), streamed().to(torch.device("cpu"))):
        assert len(split) == 50
        assert split.device == torch.device("cpu")
        assert split.image_size == (4, 6)
        assert not split.has_regions
        assert split.regions_at(indices) is None
        assert torch.equal(split.images_at(indices), IMAGES[indices])
        assert split.images_at(indices[:0]).shape == (0, 3, 4, 6)
        assert all(torch.equal(block, IMAGES[part]) for block, part in zip(split.blocks(PARTS), PARTS, strict=True))


def test_regions_come_in_the_order_asked_for():
    def region(index):
        return np.full((4, 6), index, dtype=np.uint8)

    whole = TensorImages(IMAGES, LABELS, region)
    for split in (whole, replace(streamed(), region=region), whole.to(torch.device("cpu"))):
        assert split.has_regions
        regions = split.regions_at(torch.tensor([7, 3, 3, 49]))
        assert (regions.dtype, regions.shape) == (torch.uint8, (4, 4, 6))
        assert regions[:, 2, 5].tolist() == [7, 3, 3, 49]
        assert split.regions_at(torch.arange(0)).shape == (0, 4, 6)


@pytest.mark.parametrize(("ahead", "at_once"), [(0, 8), (1, 16), (3, 32)])
def test_no_more_than_the_blocks_ahead_are_decoded(ahead, at_once):
    begun = []

    def decode(index):
        begun.append(index)
        return IMAGES[index].numpy()

    blocks = streamed(decode, workers=2, ahead=ahead).blocks(PARTS)
    for number, _ in enumerate(blocks):
        time.sleep(0.02)  # time enough to decode everything
        assert len(begun) <= min(50, 8 * number + at_once)


def test_decoding_ends_where_the_caller_does():
    begun, before = [], threading.active_count()

    def decode(index):
        begun.append(index)
        return IMAGES[index].numpy()

    blocks = streamed(decode).blocks(PARTS)
    next(blocks)
    blocks.close()
    count = len(begun)
    assert threading.active_count() == before
    time.sleep(0.05)
    assert len(begun) == count < 50


def test_an_unreadable_image_ends_the_blocks_where_it_belongs():
    def decode(index):
        if index == 20:
            raise UserError("image 20 cannot be read")
        return IMAGES[index].numpy()

    before = threading.active_count()
    blocks = streamed(decode).blocks(torch.arange(50).split(8))
    assert [len(next(blocks)), len(next(blocks))] == [8, 8]
    with pytest.raises(UserError, match="image 20"):
        next(blocks)
    assert threading.active_count() == before


def test_decoding_is_shared_out_to_all_threads():
    gate = threading.Barrier(4, timeout=10)  # opens when four threads decode at once

    def decode(index):
        gate.wait()
        return IMAGES[index].numpy()

    assert torch.equal(streamed(decode, workers=4).images_at(torch.arange(40)), IMAGES[:40])


def halves(count):
    """Return images that are black on the left and 255, 51 and 0 in the channels on the right."""
    images = torch.zeros(count, 3, 2, 4, dtype=torch.uint8)
    images[:, :, :, 2:] = torch.tensor([255, 51, 0], dtype=torch.uint8)[:, None, None]
    return images


def test_pixel_statistics():
    images = halves(600)
    for split in (
        TensorImages(images, torch.zeros(600).long()),
        StreamedImages(lambda index: images[index].numpy(), torch.zeros(600).long(), (2, 4), 2),
    ):
        mean, std = split.pixel_statistics()
        assert mean == pytest.approx([0.5, 0.1, 0.0])
        assert std == pytest.approx([0.5, 0.1, 1e-3])  # a constant channel does not divide by zero


def test_pixel_statistics_of_many_images_are_those_of_the_first(monkeypatch):
    monkeypatch.setattr(splits, "MAX_IN_STATISTICS", 20)
    images = torch.cat([halves(20), torch.full((500, 3, 2, 4), 9, dtype=torch.uint8)])
    decoded = []

    def decode(index):
        decoded.append(index)
        return images[index].numpy()

    labels = torch.zeros(520).long()
    expected = TensorImages(images[:20], labels[:20]).pixel_statistics()
    assert TensorImages(images, labels).pixel_statistics() == expected
    assert StreamedImages(decode, labels, (2, 4), 2).pixel_statistics() == expected
    assert sorted(decoded) == list(range(20))


@pytest.mark.gpu
def test_blocks_come_to_the_device():
    split = streamed().to(torch.device("cuda"))
    assert split.device.type == split.labels.device.type == "cuda"
    blocks = list(split.blocks(PARTS))
    assert {block.device.type for block in blocks} == {"cuda"}
    assert torch.equal(torch.cat(blocks).cpu(), IMAGES.flip(0))
    assert split.pixel_statistics() == TensorImages(IMAGES, LABELS).pixel_statistics()

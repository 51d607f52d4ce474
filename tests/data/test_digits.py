import hashlib

import pytest
import torch
from sklearn.datasets import load_digits

from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.digits import Digits


@pytest.fixture(scope="module")
def digits():
    return Digits()


def test_the_splits_cover_all_scans_once(digits):
    indices = [index for split in SPLITS for index in digits._indices[split].tolist()]
    assert sorted(indices) == list(range(1797))
    assert [len(digits.dataset(split)) for split in SPLITS] == [1257, 180, 360]


def test_the_splits_are_the_same_in_every_run(digits):
    indices = b"".join(digits._indices[split].astype("<i4").tobytes() for split in SPLITS)
    assert hashlib.sha256(indices).hexdigest()[:12] == "fbf4bd812420"


def test_every_split_has_all_classes_in_proportion(digits):
    overall = torch.from_numpy(load_digits().target).bincount() / 1797
    for split in SPLITS:
        share = digits.dataset(split).labels.bincount() / len(digits.dataset(split))
        torch.testing.assert_close(share, overall, atol=0.006, rtol=0)


def test_images_are_the_enlarged_scans():
    scans = load_digits().images
    same_size = Digits(image_size=8)
    images, index = same_size.dataset("val").images, same_size._indices["val"]
    expected = torch.from_numpy(scans[index] * 255 / 16).round().to(torch.uint8)
    assert images.dtype == torch.uint8
    assert all(torch.equal(images[:, channel], expected) for channel in range(3))
    enlarged = Digits(image_size=(32, 16)).dataset("val").images
    assert enlarged.shape == (180, 3, 32, 16)
    # Averages over the pixels a scan's pixel became: equal but for the blur.
    assert (enlarged.float().mean(dim=(1, 2, 3)) - expected.float().mean(dim=(1, 2))).abs().max() < 4


def test_size_and_classes_are_known_before_anything_is_loaded():
    digits = Digits(image_size=32)
    assert (digits.image_size, digits.num_classes, digits.class_names) == ((32, 32), 10, list("0123456789"))
    assert not digits._splits


def test_the_digest_follows_the_content(digits):
    assert digits.digest() == Digits().digest()
    assert digits.digest() != Digits(image_size=32).digest()


def test_stages_choose_their_batches_of_one_data_module(digits):
    loader = digits.loader("train", 100, seed=1)
    assert len(loader) == 12
    first = next(iter(loader))
    assert first["image"].shape == (100, 3, 16, 16)
    assert first["image"].max() == 1.0
    assert len(digits.loader("val", 50)) == 4
    other = digits.loader("train", 50, seed=2)
    assert not torch.equal(first["index"][:50], next(iter(other))["index"])
    assert other.data.images is loader.data.images  # loaded once for all stages
    index = first["index"]
    assert torch.equal((first["image"] * 255).round().to(torch.uint8), digits.dataset("train").images[index])

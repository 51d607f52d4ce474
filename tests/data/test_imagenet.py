import shutil

import numpy as np
import pytest
import torch

from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.imagenet import ImageNet, imagenet_classes
from fastshap_lab.errors import UserError
from tests.data.stand_ins import LARGE, SIZES, SMALL, WNIDS, write_imagenet, xml

LABELS = (0, 281, 504)


@pytest.fixture
def root(tmp_path):
    """12 validation images of three classes, with boxes."""
    return write_imagenet(tmp_path / "imagenet", {"val": 12})


def imagenet(root, **options):
    return ImageNet(str(root), **{"image_size": (32, 40), "resize": "stretch", "val_fraction": 0.3} | options)


def numbers(data, split):
    """Return the numbers of a split's pictures, as their colour says."""
    held = data.dataset(split)
    return (held.images_at(torch.arange(len(held)))[:, 2, -1, -1] / 5).round().int().tolist()


def region(index, *boxes):
    """Return the pixels of a picture, as it is stored, in boxes."""
    width, height = SIZES[index % 2]
    inside = np.zeros((height, width), dtype=np.uint8)
    for left, top, right, bottom in boxes:
        inside[top:bottom, left:right] = 1
    return inside


def regions(data, split="test"):
    held = data.dataset(split)
    return dict(zip(numbers(data, split), held.regions_at(torch.arange(len(held))).numpy(), strict=True))


def test_the_classes_are_those_of_networks():
    wnids, names = imagenet_classes()
    assert wnids == sorted(wnids)
    assert [(wnids[label], names[label]) for label in LABELS] == list(
        zip(WNIDS, ("tench", "tabby", "coffee mug"), strict=True)
    )


def test_without_training_images_all_come_from_the_validation_images(root):
    data = imagenet(root)
    assert (data.num_classes, data.image_size) == (1000, (32, 40))
    found = {split: numbers(data, split) for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [4, 2, 6]
    assert sorted(index for indices in found.values() for index in indices) == list(range(12))
    for split, indices in found.items():
        assert data.dataset(split).labels.tolist() == [LABELS[index % 3] for index in indices]
        assert data.dataset(split).has_regions
    assert found == {split: numbers(imagenet(root), split) for split in SPLITS}
    assert numbers(imagenet(root, limit_test=2, val_fraction=0.5), "test") == found["test"][:2]


def test_with_training_images_all_validation_images_are_for_testing(root):
    write_imagenet(root, {"train": 18})
    data = imagenet(root)
    assert sorted(numbers(data, "test")) == list(range(12))
    assert sorted(numbers(data, "train") + numbers(data, "val")) == list(range(18))
    assert [data.dataset(split).has_regions for split in SPLITS] == [False, False, True]


def test_boxes_of_the_images_class_count(root):
    found = regions(imagenet(root, test_fraction=0.8))
    for index in (index for index in found if index % 2 == 0):  # those that need no resizing
        assert np.array_equal(found[index], region(index, LARGE, SMALL))
    assert len(found) == 10


def test_boxes_are_measured_in_the_size_that_their_file_states(root):
    for path in (root / "boxes" / "val").iterdir():
        index = int(path.stem[-2:])
        twice = [(WNIDS[index % 3], [2 * edge for edge in LARGE])]
        path.write_text(xml([2 * side for side in SIZES[index % 2]], twice, first_pixel=0))
    found = regions(imagenet(root))
    for index in (index for index in found if index % 2 == 0):
        assert np.array_equal(found[index], region(index, LARGE))


def test_what_networks_are_tested_on_is_the_default(root):
    data = ImageNet(str(root), image_size=28, val_fraction=0.3)  # the shorter side stays 32
    assert ImageNet(str(root)).image_size == (224, 224)
    held, names = data.dataset("test"), numbers(data, "test")
    for index, inside in regions(data).items():
        rows, columns = (slice(2, 30), slice(6, 34)) if index % 2 == 0 else (slice(6, 34), slice(2, 30))
        assert np.array_equal(inside, region(index, LARGE, SMALL)[rows, columns])
        image = held.images_at(torch.tensor([names.index(index)]))[0]
        red = region(index, LARGE)[rows, columns].astype(bool)
        assert image[0][red].min() > 200
        assert image[0][~red].max() < 55


def test_without_boxes_no_regions_are_known(root):
    shutil.rmtree(root / "boxes")
    split = imagenet(root).dataset("test")
    assert not split.has_regions
    assert split.regions_at(torch.arange(2)) is None


def test_the_digest_follows_pictures_boxes_and_splits(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    options = [{}, {"test_fraction": 0.4}, {"resize": "crop"}, {"resize": "imagenet"}, {"limit_test": 2}]
    digests = [imagenet(root, **each).digest() for each in options]
    assert len(set(digests)) == len(options)
    assert imagenet(tmp_path / "copy", workers=1).digest() == digests[0]
    path = tmp_path / "copy" / "boxes" / "val" / "ILSVRC2012_val_00000003.xml"
    path.write_text(path.read_text().replace("23", "22"))
    changed = imagenet(tmp_path / "copy").digest()
    shutil.rmtree(tmp_path / "copy" / "boxes")
    assert len({changed, imagenet(tmp_path / "copy").digest(), *digests}) == len(digests) + 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), r"^data.params.root=.*: no val/<wnid>/<image>.JPEG is there$"),
        (lambda root: (root / "val" / "cat").mkdir(), r"val/cat: none of ImageNet's 1,000 classes; .* as n01440764$"),
        (lambda root: (root / "val" / "n01443537").mkdir(), r"val/n01443537: no image in it"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), r"train/cat: none of ImageNet's"),
        (
            lambda root: (root / "boxes/val/ILSVRC2012_val_00000003.xml").unlink(),
            r"00003.xml: cannot be read: No such file",
        ),
    ],
)
def test_what_is_wrong_is_one_line(root, wrong, message):
    wrong(root)
    with pytest.raises(UserError, match=message) as error:
        imagenet(root).digest()
    assert "\n" not in str(error.value)


def test_an_empty_size_is_named(root):
    data = imagenet(root)
    for path in (root / "boxes" / "val").iterdir():
        path.write_text(xml((0, 0), [], first_pixel=0))
    with pytest.raises(
        UserError, match=r"\.xml: cannot be read as an annotation: its size is 0×0 pixels, must be at least 1×1$"
    ):
        data.dataset("test").regions_at(torch.arange(1))


@pytest.mark.parametrize("option", ["test_fraction", "val_fraction"])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 1.0, -1.0])
def test_a_wrong_fraction_is_named(root, option, fraction):
    with pytest.raises(UserError, match=rf"^data.params.{option}={fraction}: .* must leave at least one on each side$"):
        imagenet(root, **{option: fraction})


def test_a_picture_that_is_none_is_named(root):
    data = imagenet(root)
    for path in (root / "val").rglob("*.JPEG"):
        path.write_text("no picture")
    for ask in (
        lambda: data.dataset("test"),
        lambda: imagenet(root, max_resident=0).dataset("test").regions_at(torch.arange(1)),
    ):
        with pytest.raises(UserError, match=r"\.JPEG: cannot be read as an image: ") as error:
            ask()
        assert "0x" not in str(error.value)

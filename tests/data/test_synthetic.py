import pytest
import torch

from fastshap_lab.data.synthetic import NOISE, SHAPES, Synthetic
from fastshap_lab.errors import UserError


@pytest.fixture(scope="module", params=[32, (16, 24)])
def shapes(request):
    return Synthetic(num_classes=8, image_size=request.param, num_train=160, num_val=16, num_test=24)


def masks(data):
    regions = data.regions_at(torch.arange(len(data)))
    assert regions.unique().tolist() == [0, 1]
    return regions.bool()


def test_the_splits_are_as_large_as_asked_for_and_balanced(shapes):
    for split, count in (("train", 160), ("val", 16), ("test", 24)):
        data = shapes.dataset(split)
        assert data.images.shape == (count, 3, *shapes.image_size)
        assert data.labels.bincount().tolist() == [count // 8] * 8


def test_pixels_within_a_mask_have_the_colour_of_the_object_and_those_beside_it_do_not(shapes):
    data = shapes.dataset("train")
    for image, mask in zip(data.images.float() / 255, masks(data), strict=True):
        inside, outside = image[:, mask], image[:, ~mask]
        colour = (inside.amax(dim=1) + inside.amin(dim=1)) / 2
        assert (inside - colour[:, None]).abs().max() <= NOISE + 0.5 / 255 + 1e-6
        assert (outside - colour[:, None]).abs().amax(dim=0).min() > 2 * NOISE


def test_masks_have_the_areas_of_their_shapes():
    data = Synthetic(num_classes=8, image_size=128, num_train=80).dataset("train")
    width = masks(data).any(dim=1).sum(dim=1).float()
    area = masks(data).sum(dim=(1, 2)) / width**2
    by_class = {name: area[data.labels == label].mean().item() for label, name in enumerate(SHAPES)}
    expected = {"disk": 3.1416 / 4, "square": 1.0, "triangle": 0.5, "cross": 0.51, "ring": 0.7 * 3.1416 / 4}
    for name, value in (expected | {"diamond": 0.5, "bar": 0.35}).items():
        assert by_class[name] == pytest.approx(value, abs=0.03), name


def test_an_image_does_not_depend_on_how_many_are_drawn():
    few, many = Synthetic(num_train=5).dataset("train"), Synthetic(num_train=1500).dataset("train")
    assert torch.equal(few.images, many.images[:5])
    assert torch.equal(masks(few), masks(many)[:5])


def test_splits_and_seeds_have_different_images():
    data = Synthetic(num_train=4, num_val=4, num_test=4)
    images = [data.dataset(split).images for split in ("train", "val", "test")]
    images.append(Synthetic(num_train=4, seed=1).dataset("train").images)
    assert len({image.numpy().tobytes() for split in images for image in split}) == 16


def test_the_digest_follows_the_arguments():
    arguments = [{}, {"image_size": 16}, {"num_classes": 3}, {"num_train": 5}, {"num_test": 5}, {"seed": 1}]
    assert len({Synthetic(**each).digest() for each in arguments}) == len(arguments)
    assert Synthetic().digest() == Synthetic().digest()


def test_more_classes_than_shapes_are_a_mistake():
    with pytest.raises(UserError, match="num_classes=9: must be from 2 to 8"):
        Synthetic(num_classes=9)

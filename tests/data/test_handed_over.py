"""Images that a program hands over are the same images, however they are given."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from fastshap_lab.data.handed_over import HandedOver, Pictures
from fastshap_lab.data.splits import NO_LABEL

NUMBER = 20
IMAGES = torch.randint(256, (NUMBER, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = [index % 2 for index in range(NUMBER)]


def pictures() -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in IMAGES]


def saved(folder, under: list[str]) -> list:
    paths = []
    for index, (picture, place) in enumerate(zip(pictures(), under, strict=True)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        paths.append(folder / place / f"{index:02}.png")
        picture.save(paths[-1])
    return paths


def given(kind: str, folder):
    flat = [""] * NUMBER
    return {
        "a tensor": lambda: IMAGES,
        "floats": lambda: list(IMAGES.float() / 255),
        "pictures": pictures,
        "arrays": lambda: [np.asarray(picture) for picture in pictures()],
        "paths": lambda: saved(folder, flat),
        "a folder": lambda: saved(folder, flat)[0].parent,
        "a data set": lambda: TensorDataset(IMAGES),
        "a labelled data set": lambda: TensorDataset(IMAGES, torch.tensor(LABELS)),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["a tensor", "floats", "pictures", "arrays", "paths", "a folder", "a data set", "a labelled data set"]
)
def test_images_of_any_source_are_the_same_images(kind, tmp_path):
    read = Pictures(given(kind, tmp_path))
    data = HandedOver(read, read.labels, ["a", "b"], (6, 8))
    assert [data.count(split) for split in ("train", "val", "test")] == [14, 2, 4]
    splits = [data.dataset(split) for split in ("train", "val", "test")]
    found = torch.cat([split.images for split in splits])
    order = [int((image == IMAGES).flatten(1).all(dim=1).nonzero()) for image in found]
    assert sorted(order) == list(range(NUMBER))
    labelled = kind == "a labelled data set"
    assert torch.cat([split.labels for split in splits]).tolist() == [
        LABELS[index] if labelled else NO_LABEL for index in order
    ]
    assert read.size() == (6, 8)


def test_folders_say_what_images_show_and_splits_of_others_do_not_count(tmp_path):
    under = [f"{('train', 'test')[index % 3 == 0]}/{'ab'[label]}" for index, label in enumerate(LABELS)]
    paths = saved(tmp_path, under)
    read = Pictures(tmp_path)
    assert read.folders == ["a", "b"]
    assert dict(zip(read.given, read.labels, strict=True)) == dict(zip(paths, LABELS, strict=True))
    saved(tmp_path, [""] * NUMBER)  # some that lie in no folder: nobody knows what these show
    assert Pictures(tmp_path).labels is None


def test_the_digest_is_of_what_the_images_are(tmp_path):
    changed = IMAGES.clone()
    changed[7] += 1
    digests = [
        HandedOver(Pictures(images), labels, ["a", "b"], (6, 8)).digest()
        for images, labels in ((IMAGES, None), (list(IMAGES), None), (changed, None), (IMAGES, LABELS))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3

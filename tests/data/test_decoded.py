"""What all data sets of encoded pictures have in common, whether a split is in memory or streams."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastshap_lab.data.augment import Augment
from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.cifar10 import Cifar10
from fastshap_lab.data.folder import Folder
from fastshap_lab.data.hub import Hub
from fastshap_lab.data.imagenet import ImageNet
from fastshap_lab.data.splits import StreamedImages, TensorImages
from fastshap_lab.data.voc import Voc
from fastshap_lab.errors import UserError
from tests.data.stand_ins import write_cifar10, write_imagenet, write_voc

AUGMENT = Augment(flip=True, crop_padding=2, rotation=0.2)


def pictures(count):
    """Return noise of several sizes; labels go round."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (9 + index % 5, 12 - index % 3, 3), dtype=np.uint8) for index in range(count)]


@pytest.fixture(params=["hub", "folder", "cifar10", "voc", "imagenet"])
def make(request, tmp_path, monkeypatch):
    """Return what builds the same data set under other options: 30 or more training images of three classes or more."""
    if request.param == "cifar10":
        write_cifar10(tmp_path, monkeypatch)
        return lambda **options: Cifar10(str(tmp_path), **{"download": False, "image_size": (8, 10)} | options)
    if request.param in ("voc", "imagenet"):
        kind, write = {"voc": (Voc, write_voc), "imagenet": (ImageNet, write_imagenet)}[request.param]
        write(tmp_path, {"train": 36, "val": 12})
        return lambda **options: kind(str(tmp_path), **{"image_size": (8, 10)} | options)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, count in (("train", 36), ("test", 12)):
        if request.param == "folder":
            for index, picture in enumerate(pictures(count)):
                path = tmp_path / "set" / split / "abc"[index % 3] / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
        else:
            (tmp_path / "set").mkdir(exist_ok=True)
            files = [io.BytesIO() for _ in range(count)]
            for file, picture in zip(files, pictures(count), strict=True):
                Image.fromarray(picture).save(file, "PNG")
            rows = [{"bytes": file.getvalue(), "path": None} for file in files]
            table = pa.table({"image": rows, "label": [index % 3 for index in range(count)]})
            pq.write_table(table, tmp_path / "set" / f"{split}.parquet")
    kind = {"hub": Hub, "folder": Folder}[request.param]
    return lambda **options: kind(str(tmp_path / "set"), **{"image_size": (8, 10)} | options)


def batches(data):
    loaders = [data.loader(split, 8, augment=AUGMENT, seed=1) for split in SPLITS]
    for number in range(2):
        for loader in loaders:
            loader.set_epoch(number)
            yield from loader


def test_streaming_changes_nothing(make):
    resident = make()
    counts = [resident.count(split) for split in SPLITS]
    assert not resident._splits  # nothing was decoded for it
    assert counts == [len(resident.dataset(split)) for split in SPLITS]
    assert all(isinstance(resident.dataset(split), TensorImages) for split in SPLITS)
    expected = list(batches(resident))
    for workers in (1, 3):
        streamed = make(max_resident=0, workers=workers)
        assert all(isinstance(streamed.dataset(split), StreamedImages) for split in SPLITS)
        assert streamed.digest() == resident.digest()
        assert streamed.dataset("train").pixel_statistics() == resident.dataset("train").pixel_statistics()
        for split in SPLITS:
            ours, theirs = (data.dataset(split).regions_at(torch.tensor([2, 0, 1])) for data in (streamed, resident))
            assert theirs is None if ours is None else torch.equal(ours, theirs)
        for ours, theirs in zip(batches(streamed), expected, strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_split_streams_if_it_is_too_large(make):
    sizes = {split: 3 * 8 * 10 * len(make().dataset(split)) for split in SPLITS}
    data = make(max_resident=sizes["test"])
    kinds = {split: type(data.dataset(split)) for split in SPLITS}
    assert kinds == {"train": StreamedImages, "val": TensorImages, "test": TensorImages}
    assert isinstance(make(max_resident=sizes["train"]).dataset("train"), TensorImages)


def test_limits_take_the_first(make):
    whole, limited = make(), make(limit_train=10, limit_test=4, max_resident=0)
    counts = {split: len(limited.dataset(split)) for split in SPLITS}
    assert counts == {
        "train": 10,
        "val": max(1, round(len(whole.dataset("val")) * 10 / len(whole.dataset("train")))),
        "test": 4,
    }
    for split, count in counts.items():
        assert torch.equal(limited.dataset(split).images_at(torch.arange(count)), whole.dataset(split).images[:count])
    assert limited.digest() != whole.digest()


@pytest.mark.parametrize("option", ["limit_train", "limit_test", "workers"])
def test_nothing_is_limited_to_nothing(make, option):
    with pytest.raises(UserError, match=f"^data.params.{option}=0: must be at least 1$"):
        make(**{option: 0})


@pytest.mark.parametrize("fraction", [0.0, 0.001, 1.0, -1.0])
def test_a_wrong_fraction_is_named(make, fraction):
    with pytest.raises(UserError, match=f"^data.params.val_fraction={fraction}: "):
        make(val_fraction=fraction)

import hashlib
import io
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.hub import Hub
from fastshap_lab.errors import UserError

CIFAR10 = Path(os.environ.get("FASTSHAP_LAB_CIFAR10", Path(__file__).parents[3] / "shared" / "data" / "cifar10"))
needs_cifar10 = pytest.mark.skipif(
    not CIFAR10.is_dir(), reason=f"CIFAR-10 as train.parquet and test.parquet is not in {CIFAR10}"
)


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(folder, split, images, labels, image_column="image", label_column="label"):
    folder.mkdir(exist_ok=True)
    rows = {"id": range(7, 7 + len(images)), image_column: [{"bytes": image, "path": None} for image in images]}
    pq.write_table(
        pa.table({name: list(column) for name, column in rows.items()} | {label_column: labels}),
        folder / f"{split}.parquet",
    )


def colour(index):
    return (index, 255 - index, 100)


@pytest.fixture
def folder(tmp_path):
    """60 train and 12 test images of one colour each, which says their index; three classes."""
    for split, count in (("train", 60), ("test", 12)):
        images = [png(Image.new("RGB", (6, 4), colour(index))) for index in range(count)]
        write(tmp_path / "set", split, images, [index % 3 for index in range(count)])
    return tmp_path / "set"


def only_image(tmp_path, image, image_size=None):
    """Return the pixels (3, H, W) that an encoded image becomes."""
    write(tmp_path / "one", "train", [image] * 4, [0, 1, 0, 1])
    write(tmp_path / "one", "test", [image], [0])
    return Hub(str(tmp_path / "one"), val_fraction=0.5, image_size=image_size).dataset("test").images[0]


def test_splits_hold_every_image_once_with_its_label(folder):
    data = Hub(str(folder))
    assert (data.image_size, data.num_classes, data.class_names) == ((4, 6), 3, ["0", "1", "2"])
    assert not data._splits  # nothing is decoded yet
    train, val, test = (data.dataset(split) for split in SPLITS)
    assert [len(split) for split in (train, val, test)] == [54, 6, 12]
    index = torch.cat([train.images, val.images])[:, 0, 0, 0].long()
    assert index.sort().values.tolist() == list(range(60))
    assert torch.equal(index % 3, torch.cat([train.labels, val.labels]))
    assert val.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(train.images[7, :, 2, 3], torch.tensor(colour(index[7].item()), dtype=torch.uint8))
    assert torch.equal(test.images[:, 0, 0, 0].long() % 3, test.labels)


def test_the_splits_are_the_same_in_every_run(folder):
    data = Hub(str(folder))
    indices = b"".join(data._indices[split].astype("<i4").tobytes() for split in SPLITS)
    assert hashlib.sha256(indices).hexdigest()[:12] == "891a4e8377ae"


def test_a_limited_set_is_a_part_of_the_whole_one(folder):
    whole, limited = Hub(str(folder)), Hub(str(folder), limit_train=27, limit_test=5)
    for split, count in (("train", 27), ("val", 3), ("test", 5)):
        assert torch.equal(limited.dataset(split).images, whole.dataset(split).images[:count])


def test_the_digest_follows_the_content_and_not_the_path(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert Hub(str(folder)).digest() == Hub(str(tmp_path / "copy")).digest()
    options = [
        {},
        {"image_size": 8},
        {"limit_train": 20},
        {"limit_test": 5},
        {"val_fraction": 0.2},
        {"class_names": list("abc")},
    ]
    assert len({Hub(str(folder), **each).digest() for each in options}) == len(options)


def test_grey_images_get_three_equal_channels(tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    expected = torch.from_numpy(grey).expand(3, -1, -1)
    assert torch.equal(only_image(tmp_path, png(Image.fromarray(grey))), expected)
    assert torch.equal(only_image(tmp_path, png(Image.fromarray(grey.astype(np.uint16) * 256 + 99))), expected)


def test_palettes_are_looked_up(tmp_path):
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert only_image(tmp_path, png(image))[:, 2, 2].tolist() == [200, 100, 50]
    assert only_image(tmp_path, png(image, transparency=1))[:, 2, 2].tolist() == [0, 0, 0]


def test_transparency_shows_black(tmp_path):
    image = Image.new("RGBA", (6, 4), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 0))
    image.putpixel((2, 0), (200, 100, 50, 128))
    pixels = only_image(tmp_path, png(image))
    assert pixels[:, 0, :3].T.tolist() == [[200, 100, 50], [0, 0, 0], [100, 50, 25]]


def test_images_stand_upright(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn clockwise
    pixels = only_image(tmp_path, png(image, exif=exif))
    assert pixels.shape == (3, 6, 4)
    assert pixels[0, 0, 3] == 255


def test_other_sizes_are_resized(tmp_path):
    halves = Image.new("RGB", (60, 40), "white")
    halves.paste("black", (0, 0, 30, 40))
    pixels = only_image(tmp_path, png(halves), image_size=(8, 6))
    assert pixels.shape == (3, 8, 6)
    assert pixels[0, :, 0].max() == 0
    assert pixels[0, :, 5].min() == 255
    assert only_image(tmp_path, png(halves), image_size=5).shape == (3, 5, 5)


def test_a_folder_of_images_is_read_too(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (6, 4), (100 * label, index, 0)).save(place / f"{index}.png")
    data = Hub(str(tmp_path / "photos"), val_fraction=0.25)
    assert data.class_names == ["cat", "dog"]
    assert len(data.digest()) == 64
    train = data.dataset("train")
    assert torch.equal(train.images[:, 0, 0, 0].long(), 100 * train.labels)


def test_columns_and_names_can_be_chosen(tmp_path):
    images = [png(Image.new("RGB", (6, 4)))] * 6
    for split in ("learn", "check"):
        write(tmp_path / "set", f"train-{split}", images, [0, 1] * 3, "scan", "kind")
    (tmp_path / "set" / "train-check.parquet").rename(tmp_path / "set" / "validation.parquet")
    path = str(tmp_path / "set")
    with pytest.raises(UserError, match=r"label_column: must name one of the columns of .*: id, scan, kind"):
        Hub(path, test_split="validation")
    data = Hub(path, test_split="validation", label_column="kind", class_names=["no", "yes"], val_fraction=0.5)
    assert data.class_names == ["no", "yes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_split": "dev"}, "data.params.test_split=dev: .* has train, test"),
        ({"image_column": "photo"}, "data.params.image_column=photo: .* has id, image, label"),
        ({"label_column": "klass"}, "data.params.label_column=klass: .* has id, image, label"),
        ({"label_column": "id"}, "a label of split train is 60, must be from 0 to 59"),
        ({"class_names": ["a", "b"]}, "a label of split train is 2, must be from 0 to 1"),
        ({"val_fraction": 0.01}, "data.params.val_fraction=0.01: "),
    ],
)
def test_a_wrong_option_is_answered_with_what_there_is(folder, options, message):
    with pytest.raises(UserError, match=message) as caught:
        Hub(str(folder), **options)
    assert "\n" not in str(caught.value)


def test_labels_must_be_numbers_without_gaps(tmp_path):
    images = [png(Image.new("RGB", (6, 4)))] * 4
    for labels, message in (([1, 2, 1, 2], "is 2, must be from 0 to 1"), (["a", "b"] * 2, "is 'a', must be from")):
        for split in ("train", "test"):
            write(tmp_path / "set", split, images, labels)
        with pytest.raises(UserError, match=message):
            Hub(str(tmp_path / "set"))


def test_a_missing_or_empty_folder_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"data.params.path={path}: neither"):
            Hub(str(path))


def test_an_unreadable_image_is_named(tmp_path):
    images = [png(Image.effect_noise((20, 20), 50))] * 8
    for broken in (b"no image", images[0][: len(images[0]) // 2]):
        write(tmp_path / "set", "train", images, [0, 1] * 4)
        write(tmp_path / "set", "test", [*images[:2], broken], [0, 1, 0])
        with pytest.raises(UserError, match="image 2 of split test cannot be read"):
            Hub(str(tmp_path / "set"), val_fraction=0.25).dataset("test")


def write_paths(folder, paths):
    """Write parquet files whose rows name image files, or no image where the path is None."""
    folder.mkdir(exist_ok=True)
    images = [path and {"bytes": None, "path": str(path)} for path in paths]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for split in ("train", "test"):
        table = {"image": pa.array(images, type=kind), "label": [index % 2 for index in range(len(paths))]}
        pq.write_table(pa.table(table), folder / f"{split}.parquet")


@pytest.mark.parametrize("max_resident", [10**9, 10])
def test_paths_within_the_folder_are_followed(tmp_path, max_resident, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "images").mkdir(parents=True)
    Image.new("RGB", (6, 4), colour(9)).save(tmp_path / "set" / "images" / "a.png")
    (tmp_path / "set" / "images" / "b.png").symlink_to("a.png")
    write_paths(tmp_path / "set", ["images/a.png", tmp_path / "set/images/b.png", "images/../images/a.png"] * 4)
    data = Hub(str(tmp_path / "set"), max_resident=max_resident, val_fraction=0.25)
    assert data.digest()
    pixels = data.dataset("test").images_at(torch.arange(12))
    assert (pixels == torch.tensor(colour(9), dtype=torch.uint8)[:, None, None]).all()


@pytest.mark.parametrize("max_resident", [10**9, 10])
@pytest.mark.parametrize("path", ["/…/secret.png", "../secret.png", "images/link.png", "folder/secret.png", None])
def test_paths_beyond_it_are_not_and_no_image_is_said_to_be_none(tmp_path, path, max_resident, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "images").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "secret.png")
    (tmp_path / "set" / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set" / "folder").symlink_to(tmp_path)
    given = path and path.replace("/…", str(tmp_path))
    write_paths(tmp_path / "set", [given] * 12)
    expected = (
        f"image \\d+ of split train has the path {given}, which leads out of" if path else "image \\d+ .* is null$"
    )
    data = Hub(str(tmp_path / "set"), image_size=4, max_resident=max_resident, val_fraction=0.25)
    for ask in (data.digest, lambda: data.dataset("train").images_at(torch.arange(8))):
        with pytest.raises(UserError, match=expected):
            ask()


@pytest.mark.parametrize("max_resident", [10**9, 10])
def test_a_name_that_is_not_utf8_is_named(tmp_path, max_resident):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            path = os.fsdecode(os.fsencode(tmp_path / "set" / split / name) + b"/caf\xe9.png")
            Image.new("RGB", (6, 4)).save(path)
    with pytest.raises(UserError, match=r"caf\udce9.png: its name is not UTF-8; rename it, or .* data=folder$"):
        Hub(str(tmp_path / "set"), max_resident=max_resident)


def test_a_large_folder_stays_on_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    in_memory, on_disk = Hub(str(folder)), Hub(str(folder), max_resident=100)
    assert isinstance(in_memory._images["train"], list)
    assert not isinstance(on_disk._images["train"], list)
    assert on_disk.digest() == in_memory.digest()
    for split in SPLITS:
        everything = torch.arange(len(on_disk.dataset(split)))
        assert torch.equal(on_disk.dataset(split).images_at(everything), in_memory.dataset(split).images)
        assert torch.equal(on_disk.dataset(split).labels, in_memory.dataset(split).labels)


def test_images_can_be_cropped(tmp_path):
    images = [png(Image.new("RGB", (30, 10), "red"))] * 4
    for split in ("train", "test"):
        write(tmp_path / "set", split, images, [0, 1] * 2)
    data = Hub(str(tmp_path / "set"), image_size=10, resize="crop", val_fraction=0.5)
    assert data.dataset("test").images.shape == (4, 3, 10, 10)
    assert data.digest() != Hub(str(tmp_path / "set"), image_size=10, val_fraction=0.5).digest()


@needs_cifar10
def test_cifar10():
    data = Hub(str(CIFAR10), limit_train=500, limit_test=100)
    assert (data.image_size, data.num_classes) == ((32, 32), 10)
    assert data.class_names[:3] == ["airplane", "automobile", "bird"]
    whole = Hub(str(CIFAR10))
    assert [len(whole._indices[split]) for split in SPLITS] == [45_000, 5_000, 10_000]
    assert not set(whole._indices["train"]) & set(whole._indices["val"])
    train = data.dataset("train")
    assert train.images.shape == (500, 3, 32, 32)
    # The means of CIFAR-10's channels, known from every recipe.
    torch.testing.assert_close(
        train.images.float().mean(dim=(0, 2, 3)) / 255, torch.tensor([0.491, 0.482, 0.447]), atol=0.02, rtol=0
    )


@pytest.mark.slow
@needs_cifar10
def test_all_of_cifar10():
    data = Hub(str(CIFAR10))
    train, val, test = (data.dataset(split) for split in SPLITS)
    assert [len(train), len(val), len(test)] == [45_000, 5_000, 10_000]
    for split, each in ((train, 4500), (val, 500), (test, 1000)):
        assert split.labels.bincount().tolist() == [each] * 10
    mean = torch.cat([train.images, val.images]).float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-4, rtol=0)

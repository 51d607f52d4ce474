import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.folder import Folder
from fastshap_lab.errors import UserError


def save(path, label, index, size=(6, 4)):
    """Write an image of one colour, which says label and index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (100 * label, index, 7)).save(path)


def fill(root, counts, first=0):
    """Write images into ``root/<class>``, for each class so many, counted from ``first`` in all classes."""
    for label, (name, count) in enumerate(sorted(counts.items())):
        for index in range(first, first + count):
            save(root / name / f"{index:03d}.png", label, index)


def read(data, split):
    """Return the (label, index) that a split's images say, checked against its labels."""
    held = data.dataset(split)
    assert torch.equal(held.images[:, 0, 1, 2].long(), 100 * held.labels)
    return [(label // 100, index) for label, index in held.images[:, :2, 1, 2].tolist()]


@pytest.fixture
def photos(tmp_path):
    """60 cats and 40 dogs."""
    fill(tmp_path / "photos", {"cat": 60, "dog": 40})
    return tmp_path / "photos"


def folder(path, **options):
    return Folder(str(path), **{"image_size": (4, 6)} | options)


def test_one_folder_per_class_is_split_in_proportion(photos):
    data = folder(photos)
    assert (data.class_names, data.image_size) == (["cat", "dog"], (4, 6))
    assert not data._splits
    found = [image for split in SPLITS for image in read(data, split)]
    assert sorted(found) == [(0, index) for index in range(60)] + [(1, index) for index in range(40)]
    counts = {split: data.dataset(split).labels.bincount().tolist() for split in SPLITS}
    assert counts == {"train": [43, 29], "val": [5, 3], "test": [12, 8]}
    other = folder(photos, test_fraction=0.5, val_fraction=0.5)
    assert [len(other.dataset(split)) for split in SPLITS] == [25, 25, 50]


def test_the_splits_are_the_same_in_every_run(photos):
    data = folder(photos)
    said = repr([read(data, split) for split in SPLITS])
    assert hashlib.sha256(said.encode()).hexdigest()[:12] == "0d20a5fe7fc9"


@pytest.mark.parametrize(("held_out", "tested"), [(("test",), "test"), (("val",), "val"), (("val", "test"), "test")])
def test_given_splits_are_kept(tmp_path, held_out, tested):
    fill(tmp_path / "train", {"cat": 20, "dog": 20})
    for number, split in enumerate(held_out, 1):
        fill(tmp_path / split, {"cat": 5, "dog": 5}, first=100 * number)
    data = folder(tmp_path)
    train, val, test = (read(data, split) for split in SPLITS)
    first = 100 * (1 + held_out.index(tested))
    assert sorted(test) == [(label, index) for label in range(2) for index in range(first, first + 5)]
    if len(held_out) == 2:
        assert sorted(val) == [(label, index) for label in range(2) for index in range(100, 105)]
        assert len(train) == 40
    else:
        assert sorted(train + val) == [(label, index) for label in range(2) for index in range(20)]
        assert len(val) == 4
    # Shuffled, so that the first ones are a fair sample.
    for found in (train, test):
        assert found != sorted(found)


def test_a_limit_leaves_validation_images_in_proportion(tmp_path):
    for split in ("train", "val", "test"):
        fill(tmp_path / split, {"cat": 20, "dog": 20})
    data = folder(tmp_path, limit_train=10, limit_test=3)
    assert [len(data.dataset(split)) for split in SPLITS] == [10, 10, 3]
    assert len(set(data.dataset("train").labels.tolist())) == 2


def test_train_may_be_a_class(tmp_path):
    fill(tmp_path, {"boat": 10, "train": 10})
    assert folder(tmp_path).class_names == ["boat", "train"]


def test_what_is_hidden_or_no_image_is_passed_over(photos):
    expected = folder(photos).digest()
    for name in (".DS_Store", "cat/.DS_Store", "cat/._000.png", ".git/x/1.png", "cat/.cache/1.png", "dog/notes.txt"):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    (photos / "notes.csv").write_text("in no class")
    (photos / "dog" / "thumbs.db").write_bytes(b"")
    assert folder(photos).digest() == expected


def test_folders_within_a_class_and_links_belong_to_it(photos, tmp_path):
    save(photos / "cat" / "indoors" / "old" / "200.PNG", 0, 200)
    fill(tmp_path / "elsewhere", {"ape": 0, "cow": 3}, first=210)
    shutil.move(tmp_path / "elsewhere" / "cow", tmp_path / "cow")
    (photos / "dog" / "link").symlink_to(tmp_path / "cow")
    names = {path.name for paths in folder(photos)._files.values() for path in paths}
    assert {"200.PNG", "210.png", "212.png"} <= names
    assert len(folder(photos)._files["train"]) + len(folder(photos)._files["test"]) == 104


def test_images_are_stretched_cropped_or_padded(tmp_path):
    wide = Image.new("RGB", (40, 10), "red")  # red, ten columns of white, red
    wide.paste("white", (15, 0, 25, 10))
    for split in ("train", "test"):
        for name in ("a", "b"):
            for index in range(2):
                path = tmp_path / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                wide.save(path)
    options = {"image_size": 10, "val_fraction": 0.5}
    stretched = folder(tmp_path, **options).dataset("test").images[0]
    assert stretched[1, 5, [0, 1, 2, 7, 8, 9]].tolist() == [0] * 6
    assert stretched[1, 5, [4, 5]].min() > 200
    cropped = folder(tmp_path, resize="crop", **options)
    assert (cropped.dataset("test").images[0] == 255).all()
    assert cropped.digest() != folder(tmp_path, **options).digest()
    padded = folder(tmp_path, resize="pad", **options)
    image = padded.dataset("test").images[0]  # ten columns of which are two rows
    assert image[0, :, 0].tolist() == [0, 0, 0, 0, 255, 255, 0, 0, 0, 0]
    assert image[1, 4, [0, 1, 2, 7, 8, 9]].tolist() == [0] * 6
    notices = [folder(tmp_path, resize=resize, **options).notice() for resize in ("stretch", "crop", "pad")]
    assert notices == [
        f"10×40 images are {done} to 10×10 (data.params.resize)" for done in ("stretched", "cropped", "padded")
    ]
    assert folder(tmp_path, **options | {"image_size": (5, 20)}).notice() is None  # smaller, and nothing else
    small = folder(tmp_path, resize="crop", **options | {"image_size": (4, 8)}).dataset("test").images[0]
    assert small[1, 2].tolist() == pytest.approx([0, 0, 255, 255, 255, 255, 0, 0], abs=70)  # 20 of 40 columns


def test_the_digest_follows_paths_and_contents_within_the_folder(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    expected = folder(photos).digest()
    assert folder(tmp_path / "copy", workers=1).digest() == expected
    digests = {expected}
    for change in ({"image_size": 8}, {"limit_train": 9}, {"val_fraction": 0.2}, {"test_fraction": 0.3}):
        digests.add(folder(photos, **change).digest())
    image = tmp_path / "copy" / "cat" / "000.png"
    image.rename(image.with_name("zero.png"))
    digests.add(folder(tmp_path / "copy").digest())
    save(image.with_name("zero.png"), 0, 1)
    digests.add(folder(tmp_path / "copy").digest())
    (tmp_path / "copy" / "cat").rename(tmp_path / "copy" / "cats")
    digests.add(folder(tmp_path / "copy").digest())
    assert len(digests) == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda root: shutil.rmtree(root), r"^data.params.path=.*set: no such folder$"),
        (
            lambda root: [shutil.rmtree(root / name) for name in ("test", "train")],
            r"set: needs a folder .* has none; data.params.classes=none reads",
        ),
        (
            lambda root: shutil.rmtree(root / "test"),
            r"contains train, but neither test nor val; data.params.path=.*/train ",
        ),
        (
            lambda root: shutil.rmtree(root / "train" / "dog"),
            r"train: needs a folder .* two classes or more, has \['cat",
        ),
        (lambda root: (root / "train" / "emu").mkdir(), r"train/emu: no image in it; remove it, or put in some \(.bmp"),
        (
            lambda root: (root / "test" / "emu").mkdir(),
            r"test/emu: a class without training images; there are cat, dog",
        ),
        (lambda root: [path.unlink() for path in (root / "test" / "cat").iterdir()], r"test/cat: no image in it"),
        (
            lambda root: [shutil.rmtree(root / "test" / name) for name in ("cat", "dog")],
            r"test: contains no folder; it needs a folder",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(tmp_path, wrong, message):
    root = tmp_path / "set"
    for split in ("train", "test"):
        fill(root / split, {"cat": 10, "dog": 10})
    folder(root)
    wrong(root)
    with pytest.raises(UserError, match=message) as error:
        folder(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.004, 1.0])
def test_a_wrong_fraction_is_named(photos, fraction):
    with pytest.raises(UserError, match=f"^data.params.test_fraction={fraction}: "):
        folder(photos, test_fraction=fraction)


def everything(data):
    for split in SPLITS:
        held = data.dataset(split)
        held.images_at(torch.arange(len(held)))


@pytest.mark.parametrize("max_resident", [0, 10**9])
def test_an_unreadable_image_is_named_by_its_path(photos, max_resident):
    whole = (photos / "cat" / "007.png").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"some text"):
        (photos / "cat" / "007.png").write_bytes(broken)
        data = folder(photos, max_resident=max_resident)
        with pytest.raises(UserError, match=r"^\S*cat/007.png: cannot be read as an image: \w") as error:
            everything(data)
        assert "\n" not in str(error.value)
        assert "0x" not in str(error.value)
    (photos / "cat" / "007.png").unlink()
    (photos / "cat" / "007.png").symlink_to(photos / "gone.png")
    with pytest.raises(UserError, match=r"cat/007.png: cannot be read: No such file"):
        folder(photos).digest()


def renamed(path, name):
    """Give a file or a folder a name of any bytes, and return its path."""
    new = os.fsdecode(os.fsencode(path.parent) + b"/" + name)
    path.rename(new)
    return Path(new)


def test_names_of_files_may_be_any_bytes_and_those_of_classes_not(photos):
    for image in list(photos.rglob("*.png")):
        renamed(image, b"caf\xe9" + os.fsencode(image.name))
    photos = renamed(photos, b"fot\xf6")
    data = folder(photos)
    assert folder(photos).digest() == data.digest()
    assert sorted(read(data, "test")) != []
    renamed(photos / "cat", b"ch\xe2t")
    with pytest.raises(UserError, match=r"^class 'ch\\udce2t': its name is not UTF-8; rename its folder$"):
        folder(photos)


def test_what_is_no_file_is_named_and_not_read(photos):
    (photos / "cat" / "007.png").unlink()
    (photos / "cat" / "007.png").symlink_to("/dev/null")
    data = folder(photos)
    with pytest.raises(UserError, match=r"cat/007.png: cannot be read: is a device, not a file$"):
        data.digest()
    with pytest.raises(UserError, match=r"cat/007.png: cannot be read as an image: is a device, not a file$"):
        everything(data)

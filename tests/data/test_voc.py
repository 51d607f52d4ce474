import hashlib
import math
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import voc as torchvision_voc

from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.voc import CLASSES, Voc
from fastshap_lab.errors import UserError
from tests.data.stand_ins import LARGE, SIZES, SMALL, picture, voc_class, voc_pixels, write_voc


@pytest.fixture
def folder(tmp_path):
    """18 and 6 pictures in ``VOCdevkit/VOC2012``."""
    return write_voc(tmp_path, {"train": 18, "val": 6})


def voc(folder, **options):
    return Voc(str(folder.parents[1]), **{"image_size": (32, 40), "val_fraction": 0.2} | options)


def numbers(data, split):
    """Return the numbers of a split's pictures, as their colour says."""
    held = data.dataset(split)
    return (held.images_at(torch.arange(len(held)))[:, 2, -1, -1] / 5).round().int().tolist()


def regions(data, split="test"):
    """Return a split's regions, by the number of the picture."""
    held = data.dataset(split)
    return dict(zip(numbers(data, split), held.regions_at(torch.arange(len(held))).numpy(), strict=True))


def expected_pixels(index, *names):
    """Return where objects are, as they are stored."""
    labels = voc_pixels(index)
    inside = np.isin(labels, [CLASSES.index(name) + 1 for name in names])
    return np.where(labels == 255, 255, inside)


def expected_boxes(index, *boxes):
    width, height = SIZES[index % 2]
    region = np.zeros((height, width), dtype=np.uint8)
    for left, top, right, bottom in boxes:
        region[top:bottom, left:right] = 1
    return region


@pytest.mark.parametrize("kind", ["segmentation", "boxes"])
def test_an_images_label_is_its_largest_object(folder, kind):
    data = voc(folder, regions=kind)
    assert (data.class_names, data.image_size) == (list(CLASSES), (32, 40))
    found = {split: numbers(data, split) for split in SPLITS}
    assert sorted(found["train"] + found["val"]) == list(range(18))
    assert sorted(found["test"]) == list(range(18, 24))
    assert len(found["val"]) == 4
    for split, indices in found.items():
        labels = [CLASSES[label] for label in data.dataset(split).labels]
        assert labels == [voc_class(index) for index in indices]


def test_most_pixels_and_largest_box_may_differ(folder):
    thin = voc_pixels(18)
    thin[(thin > 0) & (thin < 15)] = 255  # the large object has fewer pixels than the small one
    Image.fromarray(thin).save(folder / "SegmentationClass" / "2008_000018.png")
    for kind, name in (("segmentation", "person"), ("boxes", "bird")):
        data = voc(folder, regions=kind)
        place = numbers(data, "test").index(18)
        assert CLASSES[data.dataset("test").labels[place]] == name


def test_pixels_of_the_labels_class_or_of_any_object(folder):
    for foreground, names in (("label", ()), ("any", ("person",))):
        found = regions(voc(folder, foreground=foreground))
        for index in (18, 20, 22):  # those that need no resizing
            assert np.array_equal(found[index], expected_pixels(index, voc_class(index), *names))
            assert set(np.unique(found[index])) == {0, 1, 255}


def test_boxes_of_the_labels_class_or_of_any_object(folder):
    for foreground, boxes in (("label", (LARGE,)), ("any", (LARGE, SMALL))):
        found = regions(voc(folder, regions="boxes", foreground=foreground))
        for index in (18, 20, 22):
            assert np.array_equal(found[index], expected_boxes(index, *boxes))


@pytest.mark.parametrize("kind", ["segmentation", "boxes"])
def test_regions_go_where_the_pictures_go(folder, kind):
    def stored(index):
        if kind == "boxes":
            return expected_boxes(index, LARGE)
        return expected_pixels(index, voc_class(index))

    twice = regions(voc(folder, regions=kind, image_size=(64, 80)))
    cropped = regions(voc(folder, regions=kind, image_size=32, resize="crop"))
    tested = regions(voc(folder, regions=kind, image_size=28, resize="imagenet"))  # the shorter side stays 32
    for index in (18, 20, 22):
        assert np.array_equal(twice[index], stored(index).repeat(2, axis=0).repeat(2, axis=1))
        assert np.array_equal(cropped[index], stored(index)[:, 4:36])
        assert np.array_equal(tested[index], stored(index)[2:30, 6:34])
    for index in (19, 21, 23):
        assert np.array_equal(cropped[index], stored(index)[4:36])
        assert np.array_equal(tested[index], stored(index)[6:34, 2:30])


def test_a_cameras_tag_turns_neither_pictures_nor_regions(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(18).save(folder / "JPEGImages" / "2008_000018.jpg", quality=100, subsampling=0, exif=exif)
    for kind in ("segmentation", "boxes"):
        data = voc(folder, regions=kind)
        image = data.dataset("test").images_at(torch.tensor([numbers(data, "test").index(18)]))[0]
        inside = torch.from_numpy(regions(data)[18] == 1)
        assert image[0][inside].min() > 200
        assert image[0][~expected_boxes(18, LARGE).astype(bool)].max() < 55


def test_for_networks_of_imagenet_images_have_no_label(folder):
    data = voc(folder, classes="imagenet", foreground="any")
    assert (data.num_classes, data.class_names[0], data.class_names[-1]) == (1000, "tench", "toilet tissue")
    for split in SPLITS:
        assert set(data.dataset(split).labels.tolist()) == {-100}
    logits, labels = torch.zeros(6, 1000), data.dataset("test").labels
    assert math.isnan(torch.nn.functional.cross_entropy(logits, labels))  # 0 / 0: none counts
    assert np.array_equal(regions(data)[18], expected_pixels(18, "bird", "person"))
    with pytest.raises(UserError, match=r"^data.params.classes=imagenet: .* data.params.foreground=any$"):
        voc(folder, classes="imagenet")


def test_the_digest_follows_pictures_annotations_and_options(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy" / "VOCdevkit" / "VOC2012")
    copy = tmp_path / "copy" / "VOCdevkit" / "VOC2012"
    options = [
        {},
        {"regions": "boxes"},
        {"foreground": "any"},
        {"foreground": "any", "classes": "imagenet"},
        {"resize": "crop"},
        {"resize": "imagenet"},
        {"limit_test": 2},
    ]
    digests = [voc(folder, **each).digest() for each in options]
    assert len(set(digests)) == len(options)
    assert voc(copy, workers=1).digest() == digests[0]
    pixels = voc_pixels(23)
    pixels[0, 0] = 3
    Image.fromarray(pixels).save(copy / "SegmentationClass" / "2008_000023.png")
    path = copy / "Annotations" / "2008_000023.xml"
    path.write_text(path.read_text().replace("24", "25"))
    assert voc(copy).digest() not in digests
    assert voc(copy, regions="boxes").digest() not in digests


def rewrite(path, text):
    return lambda folder: (folder / path).write_text(text)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("boxes", lambda folder: shutil.rmtree(folder), r"^data.params.root=.*: no PASCAL VOC 2012 .*download=true"),
        ("boxes", lambda folder: shutil.rmtree(folder / "ImageSets/Main"), r"Main/train.txt: cannot be read: No such"),
        (
            "segmentation",
            lambda folder: (folder / "SegmentationClass/2008_000003.png").unlink(),
            r"000003.png: cannot be read: No such file",
        ),
        (
            "segmentation",
            rewrite("SegmentationClass/2008_000003.png", "text"),
            r"000003.png: the segmentation mask cannot be read as an image: cannot identify its format",
        ),
        (
            "segmentation",
            lambda folder: picture(3).save(folder / "SegmentationClass/2008_000003.png"),
            r"000003.png: the segmentation mask cannot be read as an image: its mode is RGB, must be P or L$",
        ),
        (
            "segmentation",
            lambda folder: Image.new("L", (40, 32), 21).save(folder / "SegmentationClass/2008_000003.png"),
            r"000003.png: its objects are of classes \[21\], must be from 1 to 20$",
        ),
        (
            "segmentation",
            lambda folder: Image.new("L", (40, 32), 255).save(folder / "SegmentationClass/2008_000003.png"),
            r"000003.png: its objects are of classes \[\], must",
        ),
        (
            "segmentation",
            lambda folder: (folder / "JPEGImages/2008_000003.jpg").unlink(),
            r"000003.jpg: cannot be read",
        ),
        ("boxes", lambda folder: (folder / "JPEGImages/2008_000003.jpg").unlink(), r"000003.jpg: cannot be read"),
        (
            "boxes",
            lambda folder: (folder / "Annotations/2008_000003.xml").unlink(),
            r"000003.xml: cannot be read: No such",
        ),
        (
            "boxes",
            rewrite("Annotations/2008_000003.xml", "<annotation>"),
            r"000003.xml: cannot be read as an annotation: no element found",
        ),
        (
            "boxes",
            rewrite("Annotations/2008_000003.xml", "<annotation><object><name>cat</name></object></annotation>"),
            r"annotation: <object> has no bndbox/xmin$",
        ),
        (
            "boxes",
            rewrite("Annotations/2008_000003.xml", "<annotation></annotation>"),
            r"annotation: <annotation> has no size/width$",
        ),
        (
            "boxes",
            rewrite(
                "Annotations/2008_000003.xml",
                "<annotation><size><width>4</width><height>4</height></size></annotation>",
            ),
            r"000003.xml: its objects are \[\], must be at least one of aeroplane, ",
        ),
        (
            "boxes",
            rewrite("Annotations/2008_000003.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),
            r"annotation: it has a document type, which is not allowed$",
        ),
        (
            "boxes",
            rewrite("Annotations/2008_000003.xml", "<annotation>&b;</annotation>"),
            r"annotation: undefined entity",
        ),
    ],
)
def test_what_is_wrong_is_one_line(folder, kind, wrong, message):
    voc(folder, regions=kind).digest()
    wrong(folder)
    with pytest.raises(UserError, match=message) as error:
        voc(folder, regions=kind).digest()
    assert "\n" not in str(error.value)


def test_a_region_that_cannot_be_read_is_named(folder):
    data = voc(folder)
    (folder / "SegmentationClass" / "2008_000018.png").unlink()
    with pytest.raises(UserError, match=r"000018.png: cannot be read: No such file"):
        data.dataset("test").regions_at(torch.arange(6))


@pytest.fixture
def archive(folder, tmp_path, monkeypatch):
    """Serve the archive as the authors' site does; what was unpacked is gone. Returns the entry of torchvision."""
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / "voc.tar", "w") as packed:
        packed.add(folder.parent, "VOCdevkit")
    shutil.rmtree(folder.parent)
    monkeypatch.setenv("no_proxy", "*")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given = {
            "url": f"http://127.0.0.1:{server.server_port}/voc.tar",
            "filename": "voc.tar",
            "md5": hashlib.md5((site / "voc.tar").read_bytes()).hexdigest(),
            "base_dir": "VOCdevkit/VOC2012",
        }
        monkeypatch.setitem(torchvision_voc.DATASET_YEAR_DICT, "2012", given)
        yield given
        server.shutdown()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision's way of unpacking
def test_it_is_downloaded_once_and_if_wanted(archive, tmp_path):
    root = tmp_path / "new" / "data"
    with pytest.raises(UserError, match="no PASCAL VOC 2012"):
        Voc(str(root))
    first = Voc(str(root), download=True, val_fraction=0.2)
    archive["url"] = "http://127.0.0.1:9/voc.tar"  # nobody listens there
    assert Voc(str(root), download=True, val_fraction=0.2).digest() == first.digest()
    with pytest.raises(UserError, match=r"^data.params.root=.*, and it cannot be downloaded \(.*refused") as error:
        Voc(str(tmp_path / "other"), download=True)
    assert "\n" not in str(error.value)

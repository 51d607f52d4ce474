import io
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode
from torchvision.transforms import Resize as ShorterSide

from fastshap_lab.errors import UserError
from fastshap_lab.images import (
    FORMATS,
    box_region,
    read_rgb,
    resized,
    resized_boxes,
    resized_labels,
    to_pixels,
    to_rgb,
    to_tensor,
)

SIZE = (2, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)  # H, W, C
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1).unsqueeze(0) / 255


def upright(orientation: int) -> Image.Image:
    """Return the picture as a camera held another way stores it: with the EXIF orientation that makes it upright."""
    stored = Image.fromarray(PIXELS)
    if orientation == 6:  # "rotate by 90° clockwise to view"
        stored = stored.transpose(Image.Transpose.ROTATE_90)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    stored.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


def test_tensors_of_either_kind_one_or_many():
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for given in (image, image[None], image.float() / 255, (image / 255).double(), Image.fromarray(PIXELS)):
        batch = to_tensor(given, SIZE)
        assert batch.dtype == torch.float32
        torch.testing.assert_close(batch, EXPECTED)
    torch.testing.assert_close(to_tensor(torch.stack([image] * 3), SIZE), EXPECTED.expand(3, -1, -1, -1))
    black, white = to_tensor(torch.stack([0 * image, 0 * image + 255]), SIZE)
    assert [black.unique().tolist(), white.unique().tolist()] == [[0], [1]]


def test_paths_and_sequences_of_anything(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    given = [path, str(path), Image.fromarray(PIXELS), torch.cat([EXPECTED, EXPECTED]), EXPECTED[0]]
    torch.testing.assert_close(to_tensor(given, SIZE), EXPECTED.expand(6, -1, -1, -1))
    torch.testing.assert_close(to_tensor(tuple(given[:2]), SIZE), EXPECTED.expand(2, -1, -1, -1))


def test_files_are_closed(tmp_path):
    # An open file left to the garbage collector is a ResourceWarning, and so an error here.
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    to_tensor(tmp_path / "two.gif", SIZE)
    frames[0].save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"half\.png: cannot be read as an image"):
        to_tensor(tmp_path / "half.png", SIZE)


def test_pictures_are_resized_with_antialiasing_and_tensors_never():
    board = np.zeros((8, 12, 3), dtype=np.uint8)
    board[:, ::2] = 255  # columns that a resize without antialiasing would pick one of
    small = to_tensor(Image.fromarray(board), (2, 3))
    assert small.shape == (1, 3, 2, 3)
    assert (small - 0.5).abs().max() < 0.1
    left_half = np.zeros((4, 8, 3), dtype=np.uint8)
    left_half[:, :4] = 255
    assert to_tensor(Image.fromarray(left_half), (8, 16))[0, 0, :, [0, 15]].tolist() == [[1.0, 0.0]] * 8
    with pytest.raises(UserError, match=r"shape \(3, 8, 12\): must be \(3, 2, 3\)"):
        to_tensor(torch.rand(3, 8, 12), (2, 3))


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_cameras_rotation_is_followed_and_the_given_picture_left_alone(orientation):
    picture = upright(orientation)
    size, before = picture.size, np.asarray(picture).copy()
    for _ in range(2):
        torch.testing.assert_close(to_tensor(picture, SIZE), EXPECTED)
    assert picture.size == size
    assert np.array_equal(np.asarray(picture), before)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (3, 2), 7), (7, 7, 7)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (200, 100, 50, 0)), (0, 0, 0)),
        (Image.new("RGBA", (3, 2), (200, 100, 50, 255)), (200, 100, 50)),
        (Image.new("LA", (3, 2), (255, 51)), (51, 51, 51)),
        (Image.fromarray(np.full((2, 3), 0xAB12, dtype=np.uint16)), (0xAB, 0xAB, 0xAB)),
        (Image.new("CMYK", (3, 2), (255, 0, 0, 0)), (0, 255, 255)),
    ],
    ids=["grey", "bits", "transparent", "opaque", "grey with alpha", "16 bits", "cmyk"],
)
def test_every_mode_becomes_three_channels_of_eight_bits(picture, expected):
    assert to_rgb(picture).mode == "RGB"
    pixels = to_pixels(picture, SIZE)
    assert pixels.dtype == np.uint8
    assert (pixels == np.array(expected)[:, None, None]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.rand(1, 2, 3), r"shape \(1, 2, 3\): must be \(3, 2, 3\), or a batch"),
        (torch.rand(2, 3), r"shape \(2, 3\)"),
        (torch.rand(1, 1, 3, 2, 3), r"shape \(1, 1, 3, 2, 3\)"),
        (torch.rand(3, 3, 2), r"shape \(3, 3, 2\)"),
        (torch.rand(3, 2, 3) * 255, "uint8, or float between 0 and 1"),
        (torch.rand(3, 2, 3) - 0.5, "uint8, or float between 0 and 1"),
        (torch.full((3, 2, 3), torch.nan), "uint8, or float between 0 and 1"),
        (torch.ones(3, 2, 3, dtype=torch.int64), "uint8, or float between 0 and 1"),
        (torch.ones(3, 2, 3, dtype=torch.bool), "uint8, or float between 0 and 1"),
        (torch.rand(0, 3, 2, 3), "no image given"),
        ([], "no image given"),
        ("nowhere.png", "nowhere.png: cannot be read as an image: .*No such file"),
        (__file__, "cannot be read as an image: cannot identify"),
        ([torch.rand(3, 2, 3), "nowhere.png"], "nowhere.png: cannot be read"),
        (Image.new("F", (3, 2)), "its mode F has no fixed range"),
        (Image.new("I", (3, 2)), "its mode I has no fixed range"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as error:
        to_tensor(given, SIZE)
    assert "\n" not in str(error.value)


def test_no_program_is_asked_to_read_an_image(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'asked'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # found once in a process
    Image.fromarray(PIXELS).save(tmp_path / "photo.png", "EPS")
    content = io.BytesIO((tmp_path / "photo.png").read_bytes())
    for ask in (lambda: to_tensor(tmp_path / "photo.png", SIZE), lambda: read_rgb(content)):
        with pytest.raises(UserError, match=r"cannot identify its format, which must be one of JPEG, PNG, WEBP, BMP, "):
            ask()
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_told_by_content(kind, tmp_path):
    Image.new("RGB", (6, 4), "white").save(tmp_path / "photo.txt", kind)
    assert to_tensor(tmp_path / "photo.txt", SIZE).min() > 0.98


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device", "a folder"])
def test_what_may_never_end_is_not_even_begun(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    if kind == "a FIFO":
        os.mkfifo("it.png")
    late = threading.Timer(5, lambda: Path("it.png").open("r+b", buffering=0).close())  # lets go who waits for a writer
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "a socket":
            bound.bind("it.png")
        elif kind == "a device":
            Path("it.png").symlink_to("/dev/null")
        elif kind == "a folder":
            Path("it.png").mkdir()
        late.start()
        with pytest.raises(UserError, match=rf"^it.png: cannot be read as an image: is {kind}, not a file$"):
            to_tensor("it.png", SIZE)
        assert late.is_alive()
        late.cancel()


TOO_MANY = "more than {} pixels; the environment variable FASTSHAP_LAB_MAX_PIXELS sets the limit$"


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    for side in (13_300, 20_000):  # files without any pixels: a decoder would say that they end too early
        (tmp_path / "large.png").write_bytes(f"P5 {side} {side} 255\n".encode())
        with pytest.raises(UserError, match="large.png: cannot be read as an image: " + TOO_MANY.format("64,000,000")):
            to_tensor(tmp_path / "large.png", SIZE)
    Image.fromarray(PIXELS).save(tmp_path / "small.png")
    monkeypatch.setenv("FASTSHAP_LAB_MAX_PIXELS", "6")
    torch.testing.assert_close(to_tensor(tmp_path / "small.png", SIZE), EXPECTED)
    monkeypatch.setenv("FASTSHAP_LAB_MAX_PIXELS", "5")
    with pytest.raises(UserError, match=TOO_MANY.format("5")):
        to_tensor(tmp_path / "small.png", SIZE)
    for wrong in ("many", "0", "-5", "1e6", "1000000000"):
        monkeypatch.setenv("FASTSHAP_LAB_MAX_PIXELS", wrong)
        with pytest.raises(UserError, match=f"FASTSHAP_LAB_MAX_PIXELS={wrong}: must be a number from 1 to 178956970"):
            to_tensor(tmp_path / "small.png", SIZE)


def test_a_strip_does_not_become_a_wall():
    with pytest.raises(UserError, match=TOO_MANY.format("64,000,000")):
        resized(Image.new("RGB", (1_000_000, 1)), (224, 224), "imagenet")


def test_names_may_be_any_bytes(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.fromarray(PIXELS).save(path)
    torch.testing.assert_close(to_tensor(path, SIZE), EXPECTED)


def test_boxes_are_united():
    region = box_region(torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 0.0, 6.0, 1.0]]), (4, 6))
    assert region.int().tolist() == [[0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6]
    assert box_region(torch.tensor([[0.0, 0.0, 6.0, 4.0]]), (4, 6)).all()
    assert not box_region(torch.zeros(0, 4), (4, 6)).any()


@pytest.mark.parametrize("original", [(500, 375), (333, 500), (64, 64), (90, 70)])  # width and height
@pytest.mark.parametrize(("side", "shorter"), [(224, 256), (56, 64)])
def test_networks_for_imagenet_see_the_pixels_they_are_tested_on(original, side, shorter):
    pixels = np.random.default_rng(0).integers(0, 256, (original[1], original[0], 3), dtype=np.uint8)
    tested = Compose([ShorterSide(shorter, InterpolationMode.BICUBIC), CenterCrop(side)])
    ours = resized(Image.fromarray(pixels), (side, side), "imagenet")
    assert np.array_equal(ours, np.asarray(tested(Image.fromarray(pixels))).transpose(2, 0, 1))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad", "imagenet"])
@pytest.mark.parametrize("original", [(120, 80), (70, 110), (48, 32)])  # width and height
@pytest.mark.parametrize("size", [(32, 48), (40, 40), (56, 20)])
def test_labels_and_boxes_go_where_the_picture_goes(resize, original, size):
    left, top, right, bottom = 0.2 * original[0], 0.3 * original[1], 0.65 * original[0], 0.75 * original[1]
    box = torch.tensor([[left, top, right, bottom]], dtype=torch.float64).round()
    region = box_region(box, original[::-1]).byte()
    image = resized(Image.fromarray(255 * region.numpy()).convert("RGB"), size, resize)
    expected = image[0] >= 128
    assert 0.04 < expected.mean() < 0.95
    labels = resized_labels(Image.fromarray(region.numpy()), size, resize)
    boxed = box_region(resized_boxes(box, original, size, resize), size).numpy()
    border = (image[0] > 25) & (image[0] < 230)  # an edge amid a pixel is rounded one way or the other
    assert set(np.unique(labels)) <= {0, 1}
    assert ((labels != expected) & ~border).sum() == 0
    assert ((boxed != expected) & ~border).sum() == 0

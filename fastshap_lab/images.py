"""Images of any kind, converted to the tensors that models take."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened, whatever the file name. For others Pillow may start a program, as Ghostscript for EPS."""

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""File name extensions of the images in a folder."""

MAX_PIXELS = 64_000_000
"""Largest number of pixels of an image, each of which takes 12 bytes while it is decoded; see ``max_pixels``."""

_ORIENTATION = 0x0112  # EXIF tag in which cameras record the orientation

Resize = Literal["stretch", "crop", "pad", "imagenet"]
Images = Tensor | Image.Image | str | Path | Sequence[Tensor | Image.Image | str | Path]


def to_rgb(image: Image.Image, upright: bool = True) -> Image.Image:
    """Return an image with three channels of eight bits.

    Grey images get three equal channels, transparent ones a black background, and images of 16 bits lose the lower
    eight. Of an animation, the current frame is returned, which is the first one after opening.

    Args:
        image: Image of any mode.
        upright: Whether to apply the orientation that a camera recorded. Annotations of the stored pixels need False.

    Raises:
        ValueError: The pixels have no fixed range.
    """
    has_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not has_16_bits:
        raise ValueError(f"its mode {image.mode} has no fixed range")
    try:
        image = ImageOps.exif_transpose(image) if upright else image.copy()  # copies, so the caller's is not changed
    except SyntaxError:  # a broken tag is ignored
        image = image.copy()
    if has_16_bits:  # convert() would clip the values at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def max_pixels() -> int:
    """Return the largest number of pixels of an image: FASTSHAP_LAB_MAX_PIXELS if set, else ``MAX_PIXELS``.

    Raises:
        UserError: The environment variable is no number, or above Pillow's own limit.
    """
    max_pixels = 2 * (Image.MAX_IMAGE_PIXELS or 2**62)  # Pillow opens no larger image
    given = os.environ.get("FASTSHAP_LAB_MAX_PIXELS") or str(MAX_PIXELS)
    if not given.isdecimal() or not 1 <= int(given) <= max_pixels:
        raise UserError(
            f"FASTSHAP_LAB_MAX_PIXELS={given}: must be a number from 1 to {max_pixels} "
            "(twice PIL.Image.MAX_IMAGE_PIXELS)"
        )
    return int(given)


def _check_pixels(pixels: int) -> None:
    if pixels > max_pixels():
        raise UserError(_too_many_pixels())


def _too_many_pixels() -> str:
    return f"more than {max_pixels():,} pixels; the environment variable FASTSHAP_LAB_MAX_PIXELS sets the limit"


def images_in(folder: Path) -> Iterator[Path]:
    """Yield the paths of the images in a folder and its subfolders in any order; links are followed."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(parent, name)


@contextmanager
def opened(source: str | Path | BytesIO) -> Iterator[Image.Image]:
    """Yield an encoded image whose header is read; the block decodes it.

    Args:
        source: Path, or content of a file.

    Raises:
        UserError: The image cannot be read or decoded, has a format that is not in ``FORMATS``, or has too many pixels.
            The line gives the reason, and the caller adds the image's name.
    """
    try:
        with (
            nullcontext(source) if isinstance(source, BytesIO) else open_file(source) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            _check_pixels(image.width * image.height)
            yield image
    except UnidentifiedImageError:  # Pillow's message shows a memory address
        reason = f"cannot identify its format, which must be one of {', '.join(FORMATS)}"
        raise UserError(f"cannot be read as an image: {reason}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow checks before this module does
        raise UserError(f"cannot be read as an image: {_too_many_pixels()}") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds of errors for broken files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"cannot be read as an image: {reason}") from error


def read_rgb(source: str | Path | BytesIO, upright: bool = True) -> Image.Image:
    """Return an encoded image with three channels of eight bits, see ``to_rgb``.

    Args:
        source: Path, or content of a file.
        upright: Whether to apply the orientation that a camera recorded.
    """
    with opened(source) as image:
        return to_rgb(image, upright)


def size_of(source: str | Path | BytesIO, upright: bool = True) -> tuple[int, int]:
    """Return width and height of an encoded image in pixels. Only its header is read.

    Args:
        source: Path, or content of a file.
        upright: Whether to apply the orientation that a camera recorded.
    """
    with opened(source) as image:
        width, height = image.size
        turned = upright and image.getexif().get(_ORIENTATION, 1) >= 5  # these orientations swap width and height
        return (height, width) if turned else (width, height)


def kept_part(original: tuple[int, int], size: tuple[int, int], resize: Resize) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the part of an image that ``resized`` shows, in pixels of the image.

    With padding, the part extends beyond the image.

    Args:
        original: Width and height of the image in pixels.
        size: Height and width after resizing, in pixels.
        resize: Way of resizing, see ``resized``.
    """
    (width, height), (rows, columns) = original, size
    if resize == "stretch":
        return 0.0, 0.0, float(width), float(height)
    if resize == "crop":
        ratio = columns / rows
        kept_width, kept_height = min(float(width), ratio * height), min(float(height), width / ratio)
        left, top = (width - kept_width) * 0.5, (height - kept_height) * 0.5
        return left, top, left + kept_width, top + kept_height
    wide, high, left, top = _fitted(original, size) if resize == "pad" else _as_tested(original, size)
    return left * width / wide, top * height / high, (left + columns) * width / wide, (top + rows) * height / high


def _as_tested(original: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return width and height to resize to, then left and top to crop at, for ``imagenet``, as torchvision does."""
    (width, height), (rows, columns) = original, size
    wide, high = columns * 256 // 224, rows * 256 // 224
    wide, high = (width * high // height, high) if width * high >= height * wide else (wide, height * wide // width)
    return wide, high, round((wide - columns) / 2), round((high - rows) / 2)


def _fitted(original: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return width and height to resize to, then left and top to crop at, which are negative or 0, for ``pad``."""
    (width, height), (rows, columns) = original, size
    scale = min(columns / width, rows / height)
    wide, high = (min(limit, max(1, round(side * scale))) for side, limit in ((width, columns), (height, rows)))
    return wide, high, -((columns - wide) // 2), -((rows - high) // 2)


def _padded(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    wide, high, left, top = _fitted(image.size, size)
    canvas = Image.new(image.mode, size[::-1])
    canvas.paste(image.resize((wide, high), resampling), (-left, -top))
    return canvas


def resized(image: Image.Image, size: tuple[int, int], resize: Resize = "stretch") -> np.ndarray:
    """Return an RGB image as uint8 (3, H, W), resized with antialiasing if its size differs.

    Args:
        image: Image of mode RGB.
        size: Height and width after resizing, in pixels.
        resize: Way of resizing. ``stretch`` shows the whole image; ``crop`` shows the largest centred part with the
            right proportions; ``pad`` shows the whole image with its proportions, between black bars; these three are
            bilinear. ``imagenet`` is bicubic, as networks for ImageNet are tested: for a size of 224, the shorter side
            becomes 256 pixels, and the centre is cropped; other sizes are in proportion.

    Raises:
        UserError: ``imagenet`` would need too many pixels for the image.
    """
    if resize == "imagenet":  # resized, then cropped: resizing the part alone would round differently
        wide, high, left, top = _as_tested(image.size, size)
        _check_pixels(wide * high)  # a narrow strip needs far more pixels than it has
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size[1], top + size[0]))
    elif resize == "pad":
        image = _padded(image, size, Image.Resampling.BILINEAR)
    else:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR, kept_part(image.size, size, resize))
    return np.asarray(image).transpose(2, 0, 1)


def resized_labels(labels: Image.Image, size: tuple[int, int], resize: Resize = "stretch") -> UInt8[np.ndarray, "H W"]:
    """Return the labels of pixels, resized as ``resized`` does the picture, with the nearest label for each pixel.

    Padding has label 0.

    Args:
        labels: Grey or palette image of labels, of the picture's size.
        size: Height and width after resizing, in pixels.
        resize: Way of resizing, see ``resized``.
    """
    if resize == "pad":
        return np.asarray(_padded(labels, size, Image.Resampling.NEAREST))
    part = kept_part(labels.size, size, resize)
    return np.asarray(labels.resize(size[::-1], Image.Resampling.NEAREST, part))


def resized_boxes(
    boxes: Float[Tensor, "N 4"], original: tuple[int, int], size: tuple[int, int], resize: Resize = "stretch"
) -> Float[Tensor, "N 4"]:
    """Return boxes (left, top, right, bottom) in pixels of the resized picture; they may extend beyond it.

    Args:
        boxes: Boxes in pixels of the picture, from its corner.
        original: Width and height of the picture in pixels.
        size: Height and width after resizing, in pixels.
        resize: Way of resizing, see ``resized``.
    """
    left, top, right, bottom = kept_part(original, size, resize)
    corner = boxes.new_tensor([left, top, left, top])
    return (boxes - corner) * boxes.new_tensor([size[1] / (right - left), size[0] / (bottom - top)] * 2)


def box_region(boxes: Float[Tensor, "N 4"], image_size: tuple[int, int]) -> Bool[Tensor, "H W"]:
    """Return whether the centre of each pixel lies in any of the boxes.

    Args:
        boxes: Left, top, right, bottom in pixels from the image's corner: the whole image is 0, 0, W, H. Subtract 1
            from left and top of boxes that count pixels from 1 and include the last one, as in PASCAL VOC.
        image_size: Height and width in pixels.
    """
    rows, columns = (torch.arange(side, device=boxes.device) + 0.5 for side in image_size)
    left, top, right, bottom = (edge[:, None, None] for edge in boxes.unbind(dim=1))
    inside = (left <= columns) & (columns < right) & (top <= rows[:, None]) & (rows[:, None] < bottom)
    return inside.any(dim=0)


def to_pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return any image as uint8 (3, H, W), stretched if its size differs.

    Args:
        image: Image of any mode.
        size: Height and width in pixels.
    """
    return resized(to_rgb(image), size)


def to_tensor(images: Images, size: tuple[int, int], resize: Resize = "stretch") -> Tensor:
    """Return one image or several as a new float batch (B, 3, H, W) in [0, 1].

    Args:
        images: Tensors of the right size, (3, H, W) or (B, 3, H, W), uint8 or float in [0, 1]; PIL images or paths,
            which are resized; or a sequence of any of these.
        size: Height and width in pixels.
        resize: Way of resizing PIL images and files, see ``resized``.

    Raises:
        UserError: A tensor has another shape or values outside its range, a file is no image, or there is no image.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise UserError("no image given")
        return torch.cat([to_tensor(image, size, resize) for image in images])
    if isinstance(images, Tensor):
        return _checked(images, size)
    try:
        image = to_rgb(images) if isinstance(images, Image.Image) else read_rgb(images)
    except ValueError as error:
        raise UserError(f"{images}: cannot be read as an image: {error}") from None
    except UserError as error:
        raise UserError(f"{images}: {error}") from error
    return torch.from_numpy(resized(image, size, resize).copy()).unsqueeze(0).float() / 255


def _checked(images: Tensor, size: tuple[int, int]) -> Tensor:
    batch = images if images.ndim == 4 else images.unsqueeze(0)
    if batch.ndim != 4 or tuple(batch.shape[1:]) != (3, *size):
        raise UserError(
            f"an image tensor of shape {tuple(images.shape)}: must be (3, {size[0]}, {size[1]}), or a batch of these"
        )
    if not len(batch):
        raise UserError("no image given")
    if batch.dtype == torch.uint8:
        return batch.float() / 255
    if not batch.is_floating_point() or not (batch.isfinite().all() and batch.min() >= 0 and batch.max() <= 1):
        raise UserError("an image tensor: must be uint8, or float between 0 and 1")
    return batch.to(torch.float32, copy=True)  # the caller may change their tensor later


def normalize_map(maps: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """Return each map scaled linearly to [0, 1]; a constant map becomes zero."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)

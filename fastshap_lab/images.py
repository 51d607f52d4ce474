"""Images of any kind, as the tensors that models take."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fastshap_lab.errors import UserError

Resize = Literal["stretch", "crop"]
Images = Tensor | Image.Image | str | Path | Sequence[Tensor | Image.Image | str | Path]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image upright, with three channels of eight bits.

    Grey images get three equal channels, transparent ones a black background, 16 bits lose the lower eight, and a
    camera's rotation tag is followed. Of an animation comes the frame it stands at, the first one if just opened.

    Raises:
        ValueError: The pixels have no fixed range.
    """
    has_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not has_16_bits:
        raise ValueError(f"its mode {image.mode} has no fixed range")
    try:
        image = ImageOps.exif_transpose(image)  # a copy: the caller's stays as it is
    except SyntaxError:  # a broken tag says nothing
        image = image.copy()
    if has_16_bits:  # which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def read_rgb(source: str | Path | BytesIO) -> Image.Image:
    """Return an encoded image as ``to_rgb`` does.

    Raises:
        UserError: It cannot be read; says why, for the caller to say which one.
    """
    try:
        with Image.open(source) as image:
            return to_rgb(image)
    except UnidentifiedImageError:  # Pillow's message has an address in it
        raise UserError("cannot be read as an image: cannot identify its format") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds at what is broken
        raise UserError(f"cannot be read as an image: {' '.join(str(error).split())}") from error


def resized(image: Image.Image, size: tuple[int, int], resize: Resize = "stretch") -> np.ndarray:
    """Return an RGB image as uint8 (3, H, W), resized bilinearly with antialiasing where its size differs.

    Args:
        image: Of mode RGB.
        size: Height and width.
        resize: ``stretch`` keeps the whole image, ``crop`` its proportions and the largest part in the centre.
    """
    width_and_height = size[::-1]
    if resize == "crop":
        image = ImageOps.fit(image, width_and_height, Image.Resampling.BILINEAR)
    elif image.size != width_and_height:
        image = image.resize(width_and_height, Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def to_pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return any image as uint8 (3, H, W), stretched where its size differs."""
    return resized(to_rgb(image), size)


def to_tensor(images: Images, size: tuple[int, int]) -> Tensor:
    """Return one image or several as a float batch (B, 3, H, W) in [0, 1].

    Args:
        images: uint8 or [0, 1] float tensors of the right size, (3, H, W) or (B, 3, H, W); PIL images or paths, which
            are resized to it; or a sequence of any of them.
        size: Height and width.

    Raises:
        UserError: A tensor has another shape, or values outside of its range; a file is no image.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise UserError("no image given")
        return torch.cat([to_tensor(image, size) for image in images])
    if isinstance(images, Tensor):
        return _checked(images, size)
    try:
        image = to_rgb(images) if isinstance(images, Image.Image) else read_rgb(images)
    except ValueError as error:
        raise UserError(f"{images}: cannot be read as an image: {error}") from None
    except UserError as error:
        raise UserError(f"{images}: {error}") from error
    return torch.from_numpy(resized(image, size).copy()).unsqueeze(0).float() / 255


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
    return batch.float()


def normalize_map(maps: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """Return each map stretched to [0, 1]; a constant one becomes zero."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)

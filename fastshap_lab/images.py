"""Images of any kind, as the tensors that models take."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fastshap_lab.errors import UserError

Images = Tensor | Image.Image | str | Path | Sequence[Tensor | Image.Image | str | Path]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image upright, with three channels of eight bits.

    Grey images get three equal channels, transparent ones a black background, 16 bits lose the lower eight, and a
    camera's rotation tag is followed.

    Raises:
        ValueError: The pixels have no fixed range.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode} has no fixed range")
    if image.mode.startswith("I;16"):  # which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image)  # a copy: the caller's stays as it is
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def to_pixels(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return the image as uint8 (3, H, W), resized bilinearly with antialiasing where its size differs."""
    image, wanted = to_rgb(image), size[::-1]
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


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
        with nullcontext(images) if isinstance(images, Image.Image) else Image.open(images) as image:
            return torch.from_numpy(to_pixels(image, size).copy()).unsqueeze(0).float() / 255
    except (AttributeError, OSError, Image.DecompressionBombError, UnidentifiedImageError, ValueError) as error:
        raise UserError(f"{images}: cannot be read as an image: {error}") from None


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

"""Random augmentation of a batch of training images, with random numbers of its own for each image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fastshap_lab.data.auto_augment import cifar10_policy


def affine(mirror: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor, height: int, width: int) -> Tensor:
    """Return the matrices (B, 2, 3) that map positions in the augmented image to positions in the original.

    Positions are in the units of ``grid_sample``: -1 and 1 are the outer edges of the image.

    Args:
        mirror: -1 to swap left and right, 1 to leave them (B,).
        angle: Angle of the clockwise rotation in radians (B,).
        zoom: Factor by which the content grows (B,).
        shift: Position x, y in the original that becomes the centre (B, 2).
        height: Height of the image in pixels; rotations of an image that is not square need its proportions.
        width: Width of the image in pixels.
    """
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # Mirroring is the first step from the augmented to the original position, so it changes the sign of x's column.
    row_x = torch.stack([mirror * cos, sin * height / width, shift[:, 0]], dim=1)
    row_y = torch.stack([-mirror * sin * width / height, cos, shift[:, 1]], dim=1)
    return torch.stack([row_x, row_y], dim=1)


@dataclass(frozen=True)
class Augment:
    """Random mirroring, translation, rotation and scaling of images; the defaults change nothing.

    Attributes:
        flip: Whether half of the images are mirrored left to right.
        crop_padding: Largest translation in whole pixels, as padding by this width and cropping would give.
        rotation: Largest angle of rotation in radians, in both directions.
        scale: Largest change of size, as a fraction, in both directions.
        translate: Largest translation as a fraction of half the image, in both directions.
        policy: ``cifar10`` applies a sub-policy of AutoAugment for CIFAR-10 after the other changes.
        padding_mode: ``padding_mode`` of ``grid_sample``, which fills what lies outside of the original.
    """

    flip: bool = False
    crop_padding: int = 0
    rotation: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    policy: Literal["none", "cifar10"] = "none"
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the augmented images.

        Args:
            images: Images in [0, 1] (B, C, H, W), on any device.
            generator: Random number generator on the CPU, so that images on every device are changed alike.
        """
        if self.flip or self.crop_padding or self._interpolates:
            images = self._moved(images, generator)
        return images if self.policy == "none" else cifar10_policy(images, generator)

    @property
    def _interpolates(self) -> bool:
        return bool(self.rotation or self.scale or self.translate)

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        draws = torch.rand(7, batch, generator=generator)
        signed = 2 * draws - 1
        mirror = torch.where(draws[0] < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(draws[0])
        crop = (draws[1:3] * (2 * self.crop_padding + 1)).floor() - self.crop_padding  # whole pixels
        half = torch.tensor([[width / 2], [height / 2]])
        shift = (crop / half + self.translate * signed[3:5]).T
        matrices = affine(mirror, self.rotation * signed[5], 1 + self.scale * signed[6], shift, height, width)
        # This does not wait for the device: memory that is not pinned has been read when `to` returns.
        matrices = matrices.to(images.device, images.dtype, non_blocking=True)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        # Translations by whole pixels are exact with "nearest"; rounding of the grid makes "bilinear" blur a little.
        mode = "bilinear" if self._interpolates else "nearest"
        return F.grid_sample(images, grid, mode=mode, padding_mode=self.padding_mode, align_corners=False)

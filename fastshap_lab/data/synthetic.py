"""Shapes drawn on textured backgrounds; the region of each object, which an explanation should find, is known."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fastshap_lab.components import Count
from fastshap_lab.data.base import SPLITS, ImageDataModule, Split, height_and_width
from fastshap_lab.data.splits import TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.models.tasks import Multiclass, Task, described

VERSION = 1  # part of the digest; increase it when the same arguments give other images
NOISE = 0.05  # amplitude of the uniform noise on all pixels

# Functions that tell which points belong to a shape that fills x and y in [-1, 1]; y grows downwards.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disk": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) <= 0.9,
    "triangle": lambda x, y: (y <= 0.9) & (2 * x.abs() <= y + 1),
    "cross": lambda x, y: (torch.minimum(x.abs(), y.abs()) <= 0.3) & (torch.maximum(x.abs(), y.abs()) <= 1),
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    "diamond": lambda x, y: x.abs() + y.abs() <= 1,
    "bar": lambda x, y: (x.abs() <= 1) & (y.abs() <= 0.35),
    "pillar": lambda x, y: (x.abs() <= 0.35) & (y.abs() <= 1),
}


class Synthetic(ImageDataModule):
    """Images with one shape, which is the class; position, size, colours and texture do not depend on the class.

    An image depends on seed, split and index only, not on the number of images. For the task ``binary`` the label is
    whether the shape is the first one, for ``regression`` it is the area of the shape in pixels. For ``multilabel``
    each shape is present with probability 0.5, independently of the others and without overlap.

    Args:
        num_classes: Number of shapes, the first ones of ``SHAPES``.
        image_size: Height and width in pixels, or one number for a square.
        num_train: Number of training images.
        num_val: Number of validation images.
        num_test: Number of test images.
        seed: Seed for drawing the images.
        task: Task that the labels are for. None: ``multiclass``, the class is the shape.

    Raises:
        UserError: ``num_classes`` is less than 2, or there are fewer shapes.
    """

    def __init__(
        self,
        num_classes: int = 4,
        image_size: int | tuple[int, int] = 32,
        num_train: Count = 2000,
        num_val: Count = 200,
        num_test: Count = 400,
        seed: int = 0,
        task: Task | None = None,
    ) -> None:
        if not 2 <= num_classes <= len(SHAPES):
            raise UserError(f"data.params.num_classes={num_classes}: must be from 2 to {len(SHAPES)}, one shape each")
        task, self._shapes = task or Multiclass(), list(SHAPES)[:num_classes]
        class_names = {"binary": self._shapes[:1], "regression": ["area"]}.get(task.name, self._shapes)
        super().__init__(list(class_names), height_and_width(image_size), task)
        self._counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self._seed_of_images = seed

    def load(self, split: Split) -> TensorImages:
        """Return the images of a split, with labels and the regions of the shapes."""
        chunks = torch.arange(self._counts[split]).split(1024)  # limits the memory for coordinates and noise
        images, objects = zip(*(self._draw(split, indices) for indices in chunks), strict=True)
        areas = torch.cat([masks.sum(dim=(2, 3)) for masks in objects])  # (N, shapes)
        regions = torch.cat([masks.any(dim=1) for masks in objects]).byte().numpy()
        labels = {
            "multiclass": lambda: torch.arange(len(regions)) % self.num_classes,
            "multilabel": lambda: (areas > 0).float(),
            "binary": lambda: (areas[:, :1] > 0).float(),
            "regression": lambda: areas.sum(dim=1, keepdim=True).float(),
        }[self.task.name]()
        return TensorImages(torch.cat(images), labels, lambda index: regions[index])

    def content(self) -> Iterator[bytes]:
        """Yield the arguments, which determine all images."""
        yield repr((VERSION, self._counts, self._seed_of_images)).encode()
        if described(self.task):  # class names, which the digest covers, are not those of all shapes then
            yield repr(self._shapes).encode()

    def _draw(self, split: Split, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, uint8 (B, 3, H, W), and the mask of each shape, bool (B, shapes, H, W)."""
        height, width = self.image_size
        stream = SPLITS.index(split)
        draws = np.stack(
            [
                np.random.default_rng((self._seed_of_images, stream, index)).random(12 + 3 * height * width, np.float32)
                for index in indices.tolist()
            ]
        )
        place, noise = torch.from_numpy(draws).split([12, 3 * height * width], dim=1)
        place = place[:, :, None, None]
        y = torch.arange(height)[:, None] + 0.5
        x = torch.arange(width) + 0.5

        objects = {"multilabel": self._several}.get(self.task.name, self._single)(split, indices, place)
        masks = objects.any(dim=1)

        colour = place[:, 3:6]  # (B, 3, 1, 1)
        # Each channel is at least 0.35 from the object's colour on a circle, where 0 and 1 coincide.
        background = (colour + 0.35 + 0.3 * place[:, 6:9]) % 1
        angle, period, phase = np.pi * place[:, 9:10], 3 + 5 * place[:, 10:11], 2 * np.pi * place[:, 11:12]
        texture = 0.12 * torch.sin(2 * np.pi * (x * angle.cos() + y * angle.sin()) / period + phase)
        images = torch.where(masks[:, None], colour, background + texture)
        images = images + NOISE * (2 * noise.view_as(images) - 1)
        return (255 * images.clamp(0, 1)).round().to(torch.uint8), objects

    def _single(self, split: Split, indices: Tensor, place: Tensor) -> Tensor:
        """Return the masks for one shape in each image; ``place`` gives its radius and its position x, y."""
        height, width = self.image_size
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        radius = min(height, width) * (0.22 + 0.2 * place[:, 0])  # (B, 1, 1)
        across = (
            x - radius - (width - 2 * radius) * place[:, 1]
        ) / radius  # (B, 1, W); the shape never leaves the image
        down = (y - radius - (height - 2 * radius) * place[:, 2]) / radius  # (B, H, 1)
        objects = torch.zeros(len(indices), len(self._shapes), height, width, dtype=torch.bool)
        for number, name in enumerate(self._shapes):
            chosen = indices % len(self._shapes) == number
            objects[chosen, number] = SHAPES[name](across[chosen], down[chosen])
        return objects

    def _several(self, split: Split, indices: Tensor, place: Tensor) -> Tensor:
        """Return the masks for shapes that are present with probability 0.5, each in a cell of a grid of its own."""
        (height, width), number = self.image_size, len(self._shapes)
        side = math.ceil(math.sqrt(number))
        cell_height, cell_width = height / side, width / side
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        objects = torch.zeros(len(indices), number, height, width, dtype=torch.bool)
        for row, index in enumerate(indices.tolist()):
            random = np.random.default_rng((self._seed_of_images, SPLITS.index(split), index, number))
            present, cells = random.random(number) < 0.5, random.permutation(side**2)[:number]
            draws = random.random((number, 3))
            for shape, (is_there, cell) in enumerate(zip(present, cells, strict=True)):
                radius = min(cell_height, cell_width) * (0.34 + 0.14 * draws[shape, 0])
                left = (cell % side) * cell_width + radius + (cell_width - 2 * radius) * draws[shape, 1]
                top = (cell // side) * cell_height + radius + (cell_height - 2 * radius) * draws[shape, 2]
                if is_there:
                    objects[row, shape] = SHAPES[self._shapes[shape]]((x - left) / radius, (y - top) / radius)
        return objects

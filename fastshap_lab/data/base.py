"""Base class of the data sets, which the stages read images and labels from."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from fastshap_lab.data.augment import Augment
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize
from fastshap_lab.models.tasks import Multiclass, Task, described

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image from a size in a configuration, where one number means a square.

    Raises:
        UserError: A side is less than one pixel.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UserError(f"data.params.image_size={size}: must be at least 1")
    return height, width


def is_utf8(name: str) -> bool:
    """Return whether the name of a file or a class can be encoded as UTF-8; on Linux file names may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def stratified_split(strata: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (N - count,) that stay and those (count,) that are split off, with strata in proportion.

    Both are shuffled, in an order that is the same in every run: the split belongs to the data, not to the training.

    Args:
        strata: Stratum of each image (N,), from ``Task.strata``.
        count: Number of images to split off.

    Raises:
        ValueError: A stratum has too few images, or ``count`` leaves nothing on one side.
    """
    return tuple(train_test_split(np.arange(len(strata)), test_size=count, stratify=strata, random_state=0))


class ImageDataModule(ABC):
    """Training, validation and test images with their labels.

    One data module serves all stages, and a split stays in memory once it is loaded. An index always means the same
    image. A subclass implements ``load``, which returns a split, and ``content``, which identifies the data.

    Attributes:
        device: Device that images and labels are returned on; the CPU until it is set.

    Args:
        class_names: Names of the K classes, in the order of the labels.
        image_size: Height and width in pixels.
        task: Task that the labels are for. None: ``multiclass``, one class for each image.

    Raises:
        UserError: The name of a class cannot be encoded as UTF-8.
    """

    resize: Resize = "stretch"
    """How images of another size are brought to ``image_size``; see ``images.resized``."""

    def __init__(self, class_names: list[str], image_size: tuple[int, int], task: Task | None = None) -> None:
        self.task = task or Multiclass()
        for name in class_names:  # model folders and reports contain them, as UTF-8
            if not is_utf8(name):
                raise UserError(f"class {name!r}: its name is not UTF-8; rename its folder")
        self.class_names, self.num_classes, self.image_size = class_names, len(class_names), image_size
        self.device = torch.device("cpu")
        self._splits: dict[Split, ImageSplit] = {}
        self._digest: str | None = None

    @abstractmethod
    def load(self, split: Split) -> ImageSplit:
        """Return a split on the CPU; ``dataset`` calls this once for each split."""

    @abstractmethod
    def content(self) -> Iterable[bytes]:
        """Yield bytes that identify images, labels and splits; image size and class names are added by ``digest``.

        Encoded images are better than decoded ones, which may differ between versions of a decoder.
        """

    def notice(self) -> str | None:
        """Return a remark about the images that is printed before the runs start, or None."""
        return None

    def digest(self) -> str:
        """Return the SHA-256 of the data, which does not depend on where the files lie; it is computed once."""
        if self._digest is None:
            digest = hashlib.sha256()
            for part in self._all_content():
                digest.update(len(part).to_bytes(8))
                digest.update(part)
            self._digest = digest.hexdigest()
        return self._digest

    def dataset(self, split: Split) -> ImageSplit:
        """Return a split, on ``device``."""
        if split not in self._splits:
            self._splits[split] = self.load(split)
        self._splits[split] = self._splits[split].to(self.device)
        return self._splits[split]

    def count(self, split: Split) -> int:
        """Return the number of images in a split; a subclass that knows it does not load them."""
        return len(self.dataset(split))

    def batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images in [0, 1] (B, 3, H, W) and their labels in the order of their indices.

        B is always the same but for the last batch, so that random numbers that are drawn per batch are reproducible.
        """
        data = self.dataset(split)
        parts = torch.arange(len(data)).split(128)
        for images, labels in zip(data.blocks(parts), data.labels.split(128), strict=True):
            yield images.float() / 255, labels

    def loader(self, split: Split, batch_size: int, *, augment: Augment | None = None, seed: int = 0) -> ImageLoader:
        """Return batches of a split for a training; only training images are shuffled and augmented.

        Args:
            split: Name of the split.
            batch_size: Number of images in a batch.
            augment: Augmentation of training images; None leaves them as they are.
            seed: Seed for the order of training images and for their augmentation; splits do not depend on it.
        """
        return ImageLoader(self.dataset(split), batch_size, training=split == "train", augment=augment, seed=seed)

    def _all_content(self) -> Iterator[bytes]:
        yield repr((type(self).__name__, self.image_size, self.class_names)).encode()
        if task := described(self.task):
            yield json.dumps(task, sort_keys=True).encode()
        yield from self.content()

"""What every data set offers to the stages."""

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
    """Return the size of an image; one number means a square.

    Raises:
        UserError: A side is no positive number.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UserError(f"data.params.image_size={size}: must be at least 1")
    return height, width


def is_utf8(name: str) -> bool:
    """Return whether the name of a file or a class can be written; on Linux file names may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def stratified_split(strata: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices in two so that both parts have the strata (``Task.strata``) in proportion.

    Return the indices that stay and the ``count`` indices that are split off. Both are shuffled in an order that is the
    same in every run: the split belongs to the data, not to the training.

    Args:
        strata: Stratum of each image, integers (N,).
        count: Number of images to split off.

    Raises:
        ValueError: A stratum has too few images, or ``count`` leaves nothing on one side.
    """
    return tuple(train_test_split(np.arange(len(strata)), test_size=count, stratify=strata, random_state=0))


class ImageDataModule(ABC):
    """Images with labels: one class each, or what another task takes.

    One data module serves all stages, and the splits, once loaded, stay. The same index always means the same image.
    A subclass says what the splits hold (``load``) and what that depends on (``content``).

    Attributes:
        device: Where images and labels are handed out; the CPU, until another one is set.

    Args:
        class_names: In the order of the labels.
        image_size: Height and width.
        task: What the labels mean; one of the classes if None.

    Raises:
        UserError: The name of a class cannot be written as UTF-8.
    """

    resize: Resize = "stretch"
    """How pictures of another size become as large."""

    def __init__(self, class_names: list[str], image_size: tuple[int, int], task: Task | None = None) -> None:
        self.task = task or Multiclass()
        for name in class_names:  # which model folders and reports hold
            if not is_utf8(name):
                raise UserError(f"class {name!r}: its name is not UTF-8; rename its folder")
        self.class_names, self.num_classes, self.image_size = class_names, len(class_names), image_size
        self.device = torch.device("cpu")
        self._splits: dict[Split, ImageSplit] = {}
        self._digest: str | None = None

    @abstractmethod
    def load(self, split: Split) -> ImageSplit:
        """Return a split, on the CPU; called once per split."""

    @abstractmethod
    def content(self) -> Iterable[bytes]:
        """Yield what decides over images, labels and splits, beside image size and class names.

        Encoded images are better than decoded ones, which may differ between versions of a decoder.
        """

    def notice(self) -> str | None:
        """Return what the user should know of the images before anything is made of them, if there is anything."""
        return None

    def digest(self) -> str:
        """Return the SHA-256 of the content: equal for equal data, wherever its files lie; computed once."""
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
        """Return the number of images in a split; where a subclass knows it, without loading them."""
        return len(self.dataset(split))

    def batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images in [0, 1] and labels, in order and always as many at once, so that draws per batch repeat."""
        data = self.dataset(split)
        parts = torch.arange(len(data)).split(128)
        for images, labels in zip(data.blocks(parts), data.labels.split(128), strict=True):
            yield images.float() / 255, labels

    def loader(self, split: Split, batch_size: int, *, augment: Augment | None = None, seed: int = 0) -> ImageLoader:
        """Return batches of a split for a training: training images shuffled and augmented, others as they are.

        Args:
            split: Which one.
            batch_size: Images per batch.
            augment: Applied to training images only.
            seed: Of the order of training images and their augmentation; never of the splits.
        """
        return ImageLoader(self.dataset(split), batch_size, training=split == "train", augment=augment, seed=seed)

    def _all_content(self) -> Iterator[bytes]:
        yield repr((type(self).__name__, self.image_size, self.class_names)).encode()
        if task := described(self.task):
            yield json.dumps(task, sort_keys=True).encode()
        yield from self.content()

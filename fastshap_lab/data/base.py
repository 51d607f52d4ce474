"""What every data set offers to the stages."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from sklearn.model_selection import train_test_split

from fastshap_lab.data.augment import Augment
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.errors import UserError
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
    """Return the indices that stay, and ``count`` that are split off, with the strata (``Task.strata``) in proportion.

    Both in an order that is shuffled, but the same in every run: the split is part of the data, not of the training.

    Raises:
        ValueError: A stratum has too few images, or ``count`` leaves nothing on one side.
    """
    return tuple(train_test_split(np.arange(len(strata)), test_size=count, stratify=strata, random_state=0))


class ImageDataModule(LightningDataModule, ABC):
    """Images with labels: one class each, or what another task takes.

    One data module serves all stages: each says with ``configure`` how it wants its batches, and the splits, once
    loaded, stay. The same index always means the same image. A subclass says what the splits hold (``load``) and what
    that depends on (``content``).

    Args:
        class_names: In the order of the labels.
        image_size: Height and width.
        task: What the labels mean; one of the classes if None.

    Raises:
        UserError: The name of a class cannot be written as UTF-8.
    """

    def __init__(self, class_names: list[str], image_size: tuple[int, int], task: Task | None = None) -> None:
        super().__init__()
        self.task = task or Multiclass()
        for name in class_names:  # which model folders and reports hold
            if not is_utf8(name):
                raise UserError(f"class {name!r}: its name is not UTF-8; rename its folder")
        self.class_names, self.num_classes, self.image_size = class_names, len(class_names), image_size
        self._splits: dict[Split, ImageSplit] = {}
        self.configure(batch_size=128)

    def __str__(self) -> str:
        # Lightning's own would load every split, and expects a torch DataLoader.
        return f"{type(self).__name__} ({self.num_classes} classes)"

    @abstractmethod
    def load(self, split: Split) -> ImageSplit:
        """Return a split, on the CPU; called once per split."""

    @abstractmethod
    def content(self) -> Iterable[bytes]:
        """Yield what decides over images, labels and splits, beside image size and class names.

        Encoded images are better than decoded ones, which may differ between versions of a decoder.
        """

    def digest(self) -> str:
        """Return the SHA-256 of the content: equal for equal data, wherever its files lie."""
        digest = hashlib.sha256()
        for part in self._all_content():
            digest.update(len(part).to_bytes(8))
            digest.update(part)
        return digest.hexdigest()

    def dataset(self, split: Split) -> ImageSplit:
        """Return a split, on the trainer's device if a trainer is attached, else on the CPU."""
        if split not in self._splits:
            self._splits[split] = self.load(split)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._splits[split] = self._splits[split].to(device)
        return self._splits[split]

    def configure(self, *, batch_size: int, augment: Augment | None = None, seed: int = 0) -> None:
        """Say how the next stage wants its batches.

        Args:
            batch_size: Images per batch and device.
            augment: Applied to training images only.
            seed: Of the order of training images and their augmentation; never of the splits.
        """
        self._batch_size, self._augment, self._seed = batch_size, augment, seed

    def train_dataloader(self) -> ImageLoader:
        """Return shuffled, augmented batches."""
        return self._loader("train")

    def val_dataloader(self) -> ImageLoader:
        """Return the validation images in order."""
        return self._loader("val")

    def test_dataloader(self) -> ImageLoader:
        """Return the test images in order."""
        return self._loader("test")

    def _loader(self, split: Split) -> ImageLoader:
        return ImageLoader(
            self.dataset(split),
            self._batch_size,
            training=split == "train",
            augment=self._augment,
            seed=self._seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def _all_content(self) -> Iterator[bytes]:
        yield repr((type(self).__name__, self.image_size, self.class_names)).encode()
        if task := described(self.task):
            yield json.dumps(task, sort_keys=True).encode()
        yield from self.content()

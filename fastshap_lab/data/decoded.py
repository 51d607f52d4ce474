"""Base class of the data sets that decode images one by one: it makes splits, and keeps those that fit in memory."""

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch

from fastshap_lab.data.base import SPLITS, ImageDataModule, Split, stratified_split
from fastshap_lab.data.splits import ImageSplit, StreamedImages, TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize
from fastshap_lab.models.tasks import Multiclass, Task
from fastshap_lab.progress import track

MAX_RESIDENT = 2 * 2**30  # bytes of pixels
_LOOKED_AT = 16  # number of images whose proportions are compared with image_size
_DONE: dict[Resize, str] = {"stretch": "stretched", "crop": "cropped", "pad": "padded", "imagenet": "cropped"}


def split_off(
    labels: np.ndarray, option: str, fraction: float, task: Task | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices that stay and those that are split off, shuffled and with the task's strata in proportion.

    Args:
        labels: Labels of the images, (N,) or (N, K).
        option: Key below ``data.params`` that the fraction comes from, for the error line.
        fraction: Fraction of the images that is split off.
        task: Task that the labels are for. None: ``multiclass``.

    Raises:
        UserError: A stratum has too few images, or nothing is left on one side.
    """
    count, task = round(fraction * len(labels)), task or Multiclass()
    try:
        return stratified_split(task.strata(labels, max(1, min(count, len(labels) - count))), count)
    except ValueError as error:
        raise UserError(f"data.params.{option}={fraction}: {error}") from None


def shuffled(count: int) -> np.ndarray:
    """Return all indices below ``count`` in random order, as files are sorted by class; the order never changes."""
    return np.random.RandomState(0).permutation(count)


class DecodedDataModule(ImageDataModule):
    """Images of a source that is decoded image by image.

    Validation images are split off from the training images if the source has none. A split that would take more than
    ``max_resident`` bytes of pixels is decoded batch by batch in every pass; a smaller one is decoded once and stays in
    the memory of the training device. The batches are the same.

    Args:
        labels: Labels of the source's splits ``train``, ``test`` and, if it has one, ``val``: class indices (N,), or
            (N, K) where the task is not ``multiclass``.
        class_names: Names of the K classes, in the order of the labels; empty if images have no labels, and the classes
            are those of a model that is used as it is.
        image_size: Height and width in pixels.
        val_fraction: Fraction of the training images that become validation images.
        limit_train: Maximum number of training images; validation images are reduced in proportion. None: all.
        limit_test: Maximum number of test images. None: all.
        resize: How images of another size are brought to ``image_size``; see ``images.resized``.
        max_resident: Bytes of pixels; a split that has more is decoded batch by batch in every pass.
        workers: Number of decoding threads, which changes no image. None: one for each available core.
        task: Task that the labels are for. None: ``multiclass``.

    Raises:
        UserError: A limit is less than 1, the labels do not fit the task, or the images cannot be split as asked.
    """

    def __init__(
        self,
        labels: Mapping[Split, Sequence[int] | np.ndarray],
        class_names: Sequence[str],
        image_size: tuple[int, int],
        *,
        val_fraction: float,
        limit_train: int | None,
        limit_test: int | None,
        resize: Resize = "stretch",
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__(list(class_names), image_size, task)
        options = {"limit_train": limit_train, "limit_test": limit_test, "workers": workers}
        for option, value in options.items():
            if value is not None and value < 1:
                raise UserError(f"data.params.{option}={value}: must be at least 1")
        if class_names or any(label >= 0 for label in np.asarray(labels["train"]).flat):
            self.task.check_classes(self.class_names, type(self).__name__.lower())
        self._labels = {split: np.asarray(values) for split, values in labels.items()}
        if "val" in labels:
            train, val = shuffled(len(labels["train"])), shuffled(len(labels["val"]))
        else:
            train, val = split_off(self._labels["train"], "val_fraction", val_fraction, self.task)
        if limit_train is not None:
            val = val[: max(1, round(len(val) * limit_train / len(train)))]
        test = shuffled(len(labels["test"]))
        self._indices: dict[Split, np.ndarray] = {"train": train[:limit_train], "val": val, "test": test[:limit_test]}
        self._source: dict[Split, Split] = {
            "train": "train",
            "val": "val" if "val" in labels else "train",
            "test": "test",
        }
        self.resize, self._max_resident, self._workers = resize, max_resident, workers or available_cores()

    @abstractmethod
    def pixels(self, source: Split, index: int) -> np.ndarray:
        """Return an image of the source, uint8 (3, H, W); several threads call this at the same time.

        Args:
            source: Split of the source.
            index: Index of the image within that split.
        """

    @abstractmethod
    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield for each image the encoded image, or a digest of it.

        Args:
            source: Split of the source.
            indices: Indices of the images within that split.
        """

    def original_size(self, source: Split, index: int) -> tuple[int, int] | None:
        """Return width and height in pixels of an image before it is resized, or None if they are not known.

        Args:
            source: Split of the source.
            index: Index of the image within that split.
        """
        return None

    def notice(self) -> str | None:
        """Return how images of other proportions are resized, or None if none of the first 16 has others."""
        source, found = self._source["train"], Counter[tuple[int, int]]()
        for index in self._indices["train"][:_LOOKED_AT].tolist():
            with suppress(UserError):  # an unreadable image is reported when it is decoded
                size = self.original_size(source, index)
                if size is not None and not _alike(size, self.image_size):
                    found[size] += 1
        if not found:
            return None
        [((width, height), _)] = found.most_common(1)
        rows, columns = self.image_size
        others = "" if len(found) == 1 else " and others"
        return f"{height}×{width} images{others} are {_DONE[self.resize]} to {rows}×{columns} (data.params.resize)"

    def regions(self, source: Split) -> Callable[[int], np.ndarray] | None:
        """Return a function from an index within a split of the source to the region of that image's object.

        Regions are uint8 (H, W), as those of ``ImageSplit.region``. None means that the regions are not known.
        """
        return None

    def load(self, split: Split) -> ImageSplit:
        """Return a split, decoded under a progress bar, or decoded batch by batch if it exceeds ``max_resident``."""
        source, indices = self._source[split], self._indices[split].tolist()
        labels = torch.from_numpy(self._labels[source][indices])
        labels = labels.float() if labels.is_floating_point() else labels.long()

        def decode(place: int) -> np.ndarray:
            return self.pixels(source, indices[place])

        regions = self.regions(source)
        region = regions and (lambda place: regions(indices[place]))
        streamed = StreamedImages(decode, labels, self.image_size, self._workers, region=region)
        height, width = self.image_size
        if 3 * height * width * len(labels) > self._max_resident:
            return streamed
        images = torch.empty(len(labels), 3, height, width, dtype=torch.uint8)
        parts = torch.arange(len(labels)).split(256)
        for part, block in zip(track(parts, f"decode {split}"), streamed.blocks(parts), strict=True):
            images[part] = block
        return TensorImages(images, labels, region)

    def count(self, split: Split) -> int:
        """Return the number of images in a split, without decoding any."""
        return len(self._indices[split])

    def content(self) -> Iterator[bytes]:
        """Yield identity and label of each image, split by split, which depend on limits and fractions, too."""
        if self.resize != "stretch":
            yield self.resize.encode()
        for split in SPLITS:
            source, indices = self._source[split], self._indices[split].tolist()
            for index, identity in zip(indices, self.identities(source, indices), strict=True):
                yield identity
                yield str(self._labels[source][index].tolist()).encode()


def _alike(original: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether two images have the same proportions, up to a pixel.

    Args:
        original: Width and height in pixels.
        size: Height and width in pixels.
    """
    (width, height), (rows, columns) = original, size
    return abs(width * rows - height * columns) < max(width, height, rows, columns)


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

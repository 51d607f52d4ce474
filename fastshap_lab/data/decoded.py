"""What data sets of encoded pictures share: splits, limits, decoding, and whether they fit into memory."""

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

MAX_RESIDENT = 2 * 2**30

_LOOKED_AT = 16  # pictures, for what is said of their proportions
_DONE: dict[Resize, str] = {"stretch": "stretched", "crop": "cropped", "pad": "padded", "imagenet": "cropped"}


def split_off(
    labels: np.ndarray, option: str, fraction: float, task: Task | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split a fraction of the images off, with the task's strata in proportion.

    Return the indices that stay and those split off.

    Args:
        labels: Labels (N,) or (N, K), as the task has them.
        option: Configuration key of the fraction, for error messages.
        fraction: Share of the images to split off, between 0 and 1.
        task: Task that the labels belong to; ``multiclass`` if None.

    Raises:
        UserError: A stratum has too few images, or nothing is left on one side; names the option.
    """
    count, task = round(fraction * len(labels)), task or Multiclass()
    try:
        return stratified_split(task.strata(labels, max(1, min(count, len(labels) - count))), count)
    except ValueError as error:
        raise UserError(f"data.params.{option}={fraction}: {error}") from None


def shuffled(count: int) -> np.ndarray:
    """Return all indices in an order that is the same in every run: files lie sorted by class, a sample must not."""
    return np.random.RandomState(0).permutation(count)


class DecodedDataModule(ImageDataModule):
    """Training, test and perhaps validation images of a source that gives them one by one.

    Validation images are split off from the training ones where the source has none. A split that would take more than
    ``max_resident`` bytes of pixels is decoded batch by batch, time and again; a smaller one once, and then lives on
    the training device. The batches are the same.

    Args:
        labels: Of the source's splits: ``train``, ``test``, and ``val`` if it has one; numbers of classes, or
            (N, K) numbers where the task is not ``multiclass``.
        class_names: In the order of the labels; none where images have no label, and a model is to bring its classes.
        image_size: Height and width.
        val_fraction: Share of the training images to validate on.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.
        resize: What becomes of images of another size, see ``images.resized``.
        max_resident: Bytes.
        workers: Decoding threads; one for each available core if None. Neither changes an image.
        task: What the labels mean; one of the classes if None.

    Raises:
        UserError: The source's images cannot be split so.
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
        """Return an image as uint8 (3, H, W). Several threads call this at once.

        Args:
            source: Split that the image is stored under.
            index: Index of the image in that split.
        """

    @abstractmethod
    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield for each image the bytes that it is decoded from, or a digest of them.

        Args:
            source: Split that the images are stored under.
            indices: Indices of the images in that split.
        """

    def original_size(self, source: Split, index: int) -> tuple[int, int] | None:
        """Return width and height of an image in pixels before it is resized, or None where they are unknown.

        Args:
            source: Split that the image is stored under.
            index: Index of the image in that split.
        """
        return None

    def notice(self) -> str | None:
        """Return what becomes of pictures of other proportions, if there are any among the first ones."""
        source, found = self._source["train"], Counter[tuple[int, int]]()
        for index in self._indices["train"][:_LOOKED_AT].tolist():
            with suppress(UserError):  # which says its own when the image is wanted
                size = self.original_size(source, index)
                if size is not None and not _alike(size, self.image_size):
                    found[size] += 1
        if not found:
            return None
        [((width, height), _)] = found.most_common(1)
        rows, columns = self.image_size
        others = "" if len(found) == 1 else " and others"
        return f"{height}×{width} pictures{others} are {_DONE[self.resize]} to {rows}×{columns} (data.params.resize)"

    def regions(self, source: Split) -> Callable[[int], np.ndarray] | None:
        """Return what says, by index, where an image of the source has its object, or None if nothing does.

        It returns uint8 (H, W), as ``ImageSplit.region`` does.
        """
        return None

    def load(self, split: Split) -> ImageSplit:
        """Return a split: decoded, with its progress shown, or ready to be decoded as it is needed."""
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
        """Return the number of images in a split; nothing is decoded."""
        return len(self._indices[split])

    def content(self) -> Iterator[bytes]:
        """Yield what images are decoded from, and the labels, of each split: limits and fractions count."""
        if self.resize != "stretch":
            yield self.resize.encode()
        for split in SPLITS:
            source, indices = self._source[split], self._indices[split].tolist()
            for index, identity in zip(indices, self.identities(source, indices), strict=True):
                yield identity
                yield str(self._labels[source][index].tolist()).encode()


def _alike(original: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a width and height have the proportions of a height and width, but for a pixel."""
    (width, height), (rows, columns) = original, size
    return abs(width * rows - height * columns) < max(width, height, rows, columns)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

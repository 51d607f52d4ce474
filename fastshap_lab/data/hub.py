"""Any labelled image data set of the Hugging Face hub, or a local folder that is laid out like one."""

import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from fastshap_lab.data.base import SPLITS, ImageDataModule, Split, height_and_width, stratified_split
from fastshap_lab.data.loader import TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.images import to_pixels, to_rgb


class Hub(ImageDataModule):
    """Images and labels from a hub id, a folder of parquet files, or a folder of images (``train/<class>/<image>``).

    A local folder is read where it lies, with neither network nor cache. Validation images are split off from the
    training ones, with the classes in proportion.

    Images become RGB: grey ones get three equal channels, transparent ones a black background, 16 bits lose the lower
    eight, and a camera's rotation tag is followed. Those of another size are resized to ``image_size``, bilinearly with
    antialiasing, without regard to their proportions.

    Args:
        path: Hub id or folder.
        image_column: The first that holds images if None.
        label_column: The first that holds class labels if None, or else the one called ``label``.
        image_size: Height and width, or the side of a square; the first image's if None.
        train_split: What the data set calls its training images.
        test_split: What it calls its test images.
        val_fraction: Share of the training images to validate on.
        class_names: In the order of the labels; those of the data set if None, or else the labels as they are.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.

    Raises:
        UserError: The data set, a split, a column or an image is not there or not readable, or a label out of range.
    """

    def __init__(
        self,
        path: str,
        image_column: str | None = None,
        label_column: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        train_split: str = "train",
        test_split: str = "test",
        val_fraction: float = 0.1,
        class_names: list[str] | None = None,
        limit_train: int | None = None,
        limit_test: int | None = None,
    ) -> None:
        self._path = path
        source = _open(path)
        for option, split in (("train_split", train_split), ("test_split", test_split)):
            if split not in source:
                raise UserError(f"data.params.{option}={split}: {path} has {', '.join(source)}")
        features = source[train_split].features or {}
        image_column = _choose_column(path, "image_column", image_column, features, _image_columns(features))
        label_column = _choose_column(path, "label_column", label_column, features, _label_columns(features))

        train_images, train_labels = _read(source[train_split], image_column, label_column)
        test_images, test_labels = _read(source[test_split], image_column, label_column)
        class_names = class_names or getattr(features[label_column], "names", None)
        if class_names is None:
            class_names = [str(label) for label in range(len(set(train_labels)))]
        for split, labels in ((train_split, train_labels), (test_split, test_labels)):
            if unknown := set(labels) - set(range(len(class_names))):
                found = repr(min(unknown, key=str))
                raise UserError(f"{path}: a label of split {split} is {found}, not one of 0 to {len(class_names) - 1}")

        try:
            train, val = stratified_split(np.array(train_labels), round(val_fraction * len(train_labels)))
        except ValueError as error:
            raise UserError(f"data.params.val_fraction={val_fraction}: {error}") from None
        if limit_train is not None:
            val = val[: max(1, round(len(val) * limit_train / len(train)))]
        # Test images often lie sorted by class; a fixed permutation makes the first ones a fair sample.
        test = np.random.RandomState(0).permutation(len(test_labels))
        self._indices: dict[Split, np.ndarray] = {"train": train[:limit_train], "val": val, "test": test[:limit_test]}
        self._images = {"train": train_images, "val": train_images, "test": test_images}
        self._labels = {"train": train_labels, "val": train_labels, "test": test_labels}
        self._names = {"train": train_split, "val": train_split, "test": test_split}
        if image_size is None:
            width, height = self._decode("train", 0).size
            image_size = (height, width)
        super().__init__(list(class_names), height_and_width(image_size))

    def load(self, split: Split) -> TensorImages:
        """Return the decoded images of a split; on a terminal, with a progress bar."""
        indices = self._indices[split].tolist()
        images = np.empty((len(indices), 3, *self.image_size), np.uint8)

        def decode(place: int) -> None:
            images[place] = to_pixels(self._decode(split, indices[place]), self.image_size)

        with ThreadPoolExecutor(4) as threads:  # Pillow decodes outside Python's lock
            done = threads.map(decode, range(len(indices)))
            console = Console(stderr=True)
            for _ in track(done, f"decode {split}", len(indices), console=console, disable=not sys.stderr.isatty()):
                pass
        labels = [self._labels[split][index] for index in indices]
        return TensorImages(torch.from_numpy(images), torch.tensor(labels))

    def content(self) -> Iterator[bytes]:
        """Yield the encoded images and the labels of each split: limits and fractions count, paths do not."""
        for split in SPLITS:
            for index in self._indices[split].tolist():
                yield _encoded(self._images[split][index])
                yield str(self._labels[split][index]).encode()

    def _decode(self, split: Split, index: int) -> Image.Image:
        try:
            return to_rgb(Image.open(io.BytesIO(_encoded(self._images[split][index]))))
        except (OSError, TypeError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all of them
            where = f"image {index} of split {self._names[split]}"
            raise UserError(f"{self._path}: {where} cannot be read: {error}") from None


def _open(path: str) -> dict[str, datasets.Dataset | datasets.IterableDataset]:
    """Return the splits by name."""
    try:
        # Streaming reads files in place; what comes over the network is worth keeping in the hub's cache.
        return datasets.load_dataset(path, streaming=Path(path).exists())
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data.params.path={path}: neither a folder with images nor a data set on the hub: {reason}"
        ) from None


def _image_columns(features: datasets.Features) -> list[str]:
    """Return the columns that hold images, marked as such or as bare bytes."""
    marked = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    bare = [
        name
        for name, feature in features.items()
        if (isinstance(feature, dict) and "bytes" in feature) or feature == datasets.Value("binary")
    ]
    return marked + bare


def _label_columns(features: datasets.Features) -> list[str]:
    """Return the columns that hold class labels, marked as such or by their name."""
    marked = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return marked + [name for name in ("label", "labels") if name in features]


def _choose_column(path: str, option: str, wanted: str | None, features: datasets.Features, found: list[str]) -> str:
    if wanted is None and not found:
        raise UserError(f"data.params.{option}: name one of the columns of {path}: {', '.join(features)}")
    if wanted is not None and wanted not in features:
        raise UserError(f"data.params.{option}={wanted}: {path} has {', '.join(features)}")
    return wanted or found[0]


def _read(
    source: datasets.Dataset | datasets.IterableDataset, image_column: str, label_column: str
) -> tuple[list[dict], list]:
    """Return the encoded images, as ``bytes`` or ``path``, and their labels, unchecked."""
    source = source.select_columns([image_column, label_column]).cast_column(image_column, datasets.Image(decode=False))
    images, labels = [], []
    for rows in source.with_format("arrow").iter(batch_size=1000):  # far faster than row by row
        images += rows[image_column].to_pylist()
        labels += rows[label_column].to_pylist()
    return images, labels


def _encoded(image: dict) -> bytes:
    return Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]

"""Any labelled image data set of the Hugging Face hub, or a local folder that is laid out like one."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub.constants import HF_HUB_CACHE

from fastshap_lab.data.base import Split, height_and_width, is_utf8
from fastshap_lab.data.decoded import MAX_RESIDENT, DecodedDataModule
from fastshap_lab.data.image_files import read_file
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize, read_rgb, resized, size_of


class Hub(DecodedDataModule):
    """Images and labels from a hub id, a folder of parquet files, or a folder of images (``train/<class>/<image>``).

    A local folder is read where it lies, with neither network nor cache, unless it has more than ``max_resident``
    bytes: then the ``datasets`` library makes a copy in its cache that can be read image by image. Validation images
    are split off from the training ones, with the classes in proportion. Images become RGB as ``images.to_rgb`` says.

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
        resize: ``stretch``, ``crop``, ``pad``, or ``imagenet`` (see ``images.resized``).
        max_resident: Data sets of more bytes are left on disk, and splits of more decoded as they are needed.
        workers: Decoding threads; one for each available core if None.

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
        resize: Resize = "stretch",
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
    ) -> None:
        self._path, self._names = path, {"train": train_split, "test": test_split}
        source = _open(path, max_resident)
        for option, split in (("train_split", train_split), ("test_split", test_split)):
            if split not in source:
                raise UserError(f"data.params.{option}={split}: {path} has {', '.join(source)}")
        features = source[train_split].features or {}
        image_column = _choose_column(path, "image_column", image_column, features, _image_columns(features))
        label_column = _choose_column(path, "label_column", label_column, features, _label_columns(features))

        self._images: dict[Split, Sequence[dict | None]] = {}
        labels: dict[Split, list[int]] = {}
        for split, name in self._names.items():
            self._images[split], labels[split] = _read(source[name], image_column, label_column, max_resident)
        class_names = class_names or getattr(features[label_column], "names", None)
        if class_names is None:
            class_names = [str(label) for label in range(len(set(labels["train"])))]
        for split, name in self._names.items():
            if unknown := set(labels[split]) - set(range(len(class_names))):
                found = repr(min(unknown, key=str))
                raise UserError(f"{path}: a label of split {name} is {found}, not one of 0 to {len(class_names) - 1}")
        if image_size is None:
            with self._named("train", 0):
                width, height = read_rgb(io.BytesIO(self._encoded("train", 0))).size
            image_size = (height, width)
        super().__init__(
            labels,
            class_names,
            height_and_width(image_size),
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
        )

    def pixels(self, source: Split, index: int) -> np.ndarray:
        """Return an image, resized if it has to be."""
        with self._named(source, index):
            return resized(read_rgb(io.BytesIO(self._encoded(source, index))), self.image_size, self.resize)

    def original_size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height of an image before it is resized."""
        return size_of(io.BytesIO(self._encoded(source, index)))

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the encoded images; paths do not count."""
        for index in indices:
            with self._named(source, index):
                content = self._encoded(source, index)
            yield content

    def _encoded(self, source: Split, index: int) -> bytes:
        image = self._images[source][index] or {"bytes": None, "path": None}
        if image["bytes"] is not None:
            return image["bytes"]
        if image["path"] is None:
            raise UserError("is null")
        for folder in _folders(self._path):
            if (path := (folder / image["path"]).resolve()).is_relative_to(folder.resolve()):
                return read_file(path)
        raise UserError(
            f"would be read from {image['path']}, outside of the data set's folder; paths must stay inside, and links "
            "are followed by data=folder only"
        )

    @contextmanager
    def _named(self, source: Split, index: int) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"{self._path}: image {index} of split {self._names[source]} {error}") from error


def _folders(path: str) -> list[Path]:
    """Return where the image files of a data set may lie: in its folder, or where copies of the hub's are kept."""
    if Path(path).exists():
        return [Path(path)]
    return [Path(HF_HUB_CACHE, f"datasets--{path.replace('/', '--')}"), datasets.config.EXTRACTED_DATASETS_PATH]


def _open(path: str, max_resident: int) -> dict[str, datasets.Dataset | datasets.IterableDataset]:
    """Return the splits by name."""
    # Streaming reads files in place; what comes over the network is worth keeping in the hub's cache.
    in_place = Path(path).exists() and _bytes_in(Path(path)) <= max_resident
    try:
        return datasets.load_dataset(path, streaming=in_place)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"data.params.path={path}: neither a folder with images nor a data set on the hub: {reason}"
        ) from None


def _bytes_in(folder: Path) -> int:
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        if not is_utf8(str(file)):
            raise UserError(f"{file}: its name is not UTF-8; rename it, or read the folder with data=folder")
    return sum(file.stat().st_size for file in files)


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
    source: datasets.Dataset | datasets.IterableDataset, image_column: str, label_column: str, max_resident: int
) -> tuple[Sequence[dict | None], list]:
    """Return the encoded images, as ``bytes`` or ``path``, in memory or mapped to it; and their labels, unchecked."""
    source = source.select_columns([image_column, label_column]).cast_column(image_column, datasets.Image(decode=False))
    if isinstance(source, datasets.Dataset) and source.data.nbytes > max_resident:
        return source[image_column], source[label_column][:]
    images, labels = [], []
    for rows in source.with_format("arrow").iter(batch_size=1000):  # far faster than row by row
        images += rows[image_column].to_pylist()
        labels += rows[label_column].to_pylist()
    return images, labels

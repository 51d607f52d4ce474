"""A labelled image data set of the Hugging Face hub, or a local folder with the same layout."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub.constants import HF_HUB_CACHE

from fastshap_lab.data.base import Split, height_and_width, is_utf8
from fastshap_lab.data.columns import Labels, read_columns
from fastshap_lab.data.decoded import MAX_RESIDENT, DecodedDataModule
from fastshap_lab.data.image_files import read_file
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize, read_rgb, resized, size_of
from fastshap_lab.models.tasks import Multilabel, Regression, Task, described


class Hub(DecodedDataModule):
    """Images and labels from a hub id, a folder of parquet files, or a folder of images (``train/<class>/<image>``).

    A local folder is read in place, without network and cache, unless it has more than ``max_resident`` bytes: then the
    ``datasets`` library makes a copy in its cache that can be read image by image. Validation images are split off from
    the training images, with the classes in proportion. Images are converted to RGB by ``images.to_rgb``.

    Args:
        path: Id of a data set on the hub, or path of a folder.
        image_column: Name of the column of images. None: the first column that holds images.
        label_column: Name of the column of labels. None: the first column of class labels, or else ``label`` or
            ``labels``. Whole numbers are classes; lists of labels or of 0 and 1 are for ``multilabel``, false and true
            for ``binary``, other numbers and lists of them for ``regression``.
        image_size: Height and width in pixels, or one number for a square. None: the size of the first image.
        train_split: Name of the data set's split with training images.
        test_split: Name of the data set's split with test images.
        val_fraction: Fraction of the training images that become validation images.
        class_names: Names of the K classes, labels or targets, in the order of the labels. None: the names in the data
            set, or else the labels themselves.
        limit_train: Maximum number of training images; validation images are reduced in proportion. None: all.
        limit_test: Maximum number of test images. None: all.
        resize: ``stretch``, ``crop``, ``pad``, or ``imagenet`` (see ``images.resized``).
        max_resident: Bytes; a larger data set stays on disk, and a split with more bytes of pixels is decoded batch by
            batch in every pass.
        workers: Number of decoding threads. None: one for each available core.
        task: Task that the labels are read for. None: the type of the column decides.

    Raises:
        UserError: The data set, a split, a column or an image is missing or cannot be read, or a label is out of range.
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
        task: Task | None = None,
    ) -> None:
        self._path, self._names = path, {"train": train_split, "test": test_split}
        source = _open(path, max_resident)
        for option, split in (("train_split", train_split), ("test_split", test_split)):
            if split not in source:
                raise UserError(f"data.params.{option}={split}: no such split; {path} has {', '.join(source)}")
        features = source[train_split].features or {}
        image_column = _choose_column(path, "image_column", image_column, features, _image_columns(features))
        label_column = _choose_column(path, "label_column", label_column, features, _label_columns(features))

        self._images: dict[Split, Sequence[dict | None]] = {}
        labels: dict[Split, Any] = {}
        for split, name in self._names.items():
            self._images[split], labels[split] = _read(source[name], image_column, label_column, max_resident)
        feature = features[label_column]
        if _is_of_classes(feature, task):
            class_names = class_names or getattr(feature, "names", None)
            if class_names is None:
                class_names = [str(label) for label in range(len(set(labels["train"])))]
            for split, name in self._names.items():
                if unknown := set(labels[split]) - set(range(len(class_names))):
                    found = repr(min(unknown, key=str))
                    raise UserError(
                        f"{path}: a label of split {name} is {found}, must be from 0 to {len(class_names) - 1}"
                    )
        else:
            read = self._other_labels(labels, label_column, feature, task)
            if class_names is not None and len(class_names) != len(read.class_names):
                number = len(read.class_names)
                raise UserError(
                    f"data.params.class_names: there are {len(class_names)} names, must be {number}, as {path} has "
                    f"{number} labels"
                )
            task, class_names = read.task, class_names or read.class_names
            labels = dict(zip(labels, np.split(read.values, [len(labels["train"])]), strict=True))
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
            task=task,
        )

    def pixels(self, source: Split, index: int) -> np.ndarray:
        """Return an image, resized to ``image_size``."""
        with self._named(source, index):
            return resized(read_rgb(io.BytesIO(self._encoded(source, index))), self.image_size, self.resize)

    def original_size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height in pixels of an image before it is resized."""
        return size_of(io.BytesIO(self._encoded(source, index)))

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the encoded images; the digest does not depend on their paths."""
        for index in indices:
            with self._named(source, index):
                content = self._encoded(source, index)
            yield content

    def _other_labels(
        self, labels: Mapping[Split, Sequence[Any]], column: str, feature: Any, task: Task | None
    ) -> Labels:
        """Return labels that are no class indices, those of all splits one after the other."""
        values = [value for split in labels for value in labels[split]]

        def place(row: int) -> str:
            split, first = ("train", 0) if row < len(labels["train"]) else ("test", len(labels["train"]))
            return f"{self._path}: image {row - first} of split {self._names[split]}"

        inner = getattr(feature, "feature", None)
        if inner is None:
            names = getattr(feature, "names", None)
            if names is not None:
                values = [names[value] if value is not None and value >= 0 else None for value in values]
            chosen = task or (Regression() if _is_float(feature) else None)
            return read_columns({column: values}, chosen, place)
        for row, value in enumerate(values):
            if value is None or None in value:
                raise UserError(f"{place(row)}: {column} is {value}; every image needs a list without empty values")
        sizes, found = {len(value) for value in values}, sorted({one for value in values for one in value})
        if not found:
            raise UserError(f"{self._path}: all lists in {column} are empty; at least one image needs a label")
        names = getattr(inner, "names", None)
        if len(sizes) == 1 and (_is_float(inner) or (names is None and set(found) <= {0, 1})):
            of_each = {f"{column}[{k}]": [value[k] for value in values] for k in range(*sizes)}
            return read_columns(of_each, task or (Regression() if _is_float(inner) else Multilabel()), place)
        if _is_float(inner):
            raise UserError(
                f"{self._path}: {column} has lists of {min(sizes)} to {max(sizes)} numbers; all must have the same "
                "length"
            )
        if names is None:
            names = found if isinstance(found[0], str) else [str(number) for number in range(found[-1] + 1)]
        of_label = {name: [] for name in names}
        for value in values:
            said = {label if isinstance(label, str) else names[label] for label in value}
            for name, holds in of_label.items():
                holds.append(float(name in said))
        return read_columns(of_label, task or Multilabel(), place)

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
            f"has the path {image['path']}, which leads out of the data set's folder; paths must stay inside, and only "
            "data=folder follows links"
        )

    @contextmanager
    def _named(self, source: Split, index: int) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"{self._path}: image {index} of split {self._names[source]} {error}") from error


def _folders(path: str) -> list[Path]:
    """Return the folders that may contain the image files of a data set: its own, or the caches for the hub."""
    if Path(path).exists():
        return [Path(path)]
    return [Path(HF_HUB_CACHE, f"datasets--{path.replace('/', '--')}"), datasets.config.EXTRACTED_DATASETS_PATH]


def _open(path: str, max_resident: int) -> dict[str, datasets.Dataset | datasets.IterableDataset]:
    """Return the splits by name."""
    # Streaming reads local files in place; downloads go to the hub's cache, so that they happen once.
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
    """Return the columns that hold images: first those of that type, then those of encoded bytes."""
    marked = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    bare = [
        name
        for name, feature in features.items()
        if (isinstance(feature, dict) and "bytes" in feature) or feature == datasets.Value("binary")
    ]
    return marked + bare


def _label_columns(features: datasets.Features) -> list[str]:
    """Return the columns that hold labels: first those of class labels, then ``label`` and ``labels``."""
    marked = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return marked + [name for name in ("label", "labels") if name in features]


def _is_float(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("float", "double"))


def _is_of_classes(feature: Any, task: Task | None) -> bool:
    """Return whether labels must be class indices, as they are neither lists nor floats nor bools."""
    return (
        (task is None or not described(task))
        and getattr(feature, "feature", None) is None
        and not _is_float(feature)
        and getattr(feature, "dtype", None) != "bool"
    )


def _choose_column(path: str, option: str, wanted: str | None, features: datasets.Features, found: list[str]) -> str:
    if wanted is None and not found:
        raise UserError(f"data.params.{option}: must name one of the columns of {path}: {', '.join(features)}")
    if wanted is not None and wanted not in features:
        raise UserError(f"data.params.{option}={wanted}: no such column; {path} has {', '.join(features)}")
    return wanted or found[0]


def _read(
    source: datasets.Dataset | datasets.IterableDataset, image_column: str, label_column: str, max_resident: int
) -> tuple[Sequence[dict | None], list]:
    """Return the encoded images, each with ``bytes`` or ``path``, and their labels, which are not checked yet.

    A source of more than ``max_resident`` bytes is not read into memory but memory-mapped.
    """
    source = source.select_columns([image_column, label_column]).cast_column(image_column, datasets.Image(decode=False))
    if isinstance(source, datasets.Dataset) and source.data.nbytes > max_resident:
        return source[image_column], source[label_column][:]
    images, labels = [], []
    for rows in source.with_format("arrow").iter(batch_size=1000):  # far faster than row by row
        images += rows[image_column].to_pylist()
        labels += rows[label_column].to_pylist()
    return images, labels

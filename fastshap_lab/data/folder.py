"""A folder of images, with a folder per class."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fastshap_lab.data.base import Split, height_and_width
from fastshap_lab.data.decoded import MAX_RESIDENT, DecodedDataModule, split_off
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize, read_rgb, resized

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Folder(DecodedDataModule):
    """Images of any size and kind in folders that are called as their class.

    Either ``train/<class>/…`` and ``test/<class>/…`` (validation images come from ``val/<class>/…`` if there is one,
    else from the training images; without ``test``, ``val`` is the test set), or ``<class>/…`` alone, from which test
    and validation images are split off, with the classes in proportion. Folders within a class belong to it.

    Files without an image's extension are passed over, as is what begins with a dot. Images become RGB as
    ``images.to_rgb`` says. Those of another size are stretched, as an explainer does with files; ``resize=crop`` keeps
    the proportions and cuts off what is beyond the largest part in the centre that has those of ``image_size``.

    The digest is of paths and contents: each command reads all files once, as fast as they can be read.

    Args:
        path: The folder.
        image_size: Height and width, or the side of a square.
        resize: ``stretch`` or ``crop``.
        val_fraction: Share of the training images to validate on, without ``val``.
        test_fraction: Share of the images to test on, without ``train`` and ``test``.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.
        max_resident: Splits of more bytes are decoded as they are needed.
        workers: Decoding threads; one for each available core if None.

    Raises:
        UserError: The folder, a class or an image is not there or not readable.
    """

    def __init__(
        self,
        path: str,
        image_size: int | tuple[int, int] = 224,
        resize: Resize = "stretch",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        limit_train: int | None = None,
        limit_test: int | None = None,
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
    ) -> None:
        self._root = Path(path).expanduser()
        if not self._root.is_dir():
            raise UserError(f"data.params.path={path}: no such folder")
        if not any(_folders(self._root / "train")):
            class_names = _class_names(self._root)
            files, labels = _listed(self._root, class_names)
            train, test = split_off(np.array(labels), "test_fraction", test_fraction)
            parts = {"train": train.tolist(), "test": test.tolist()}
            self._files = {split: [files[index] for index in indices] for split, indices in parts.items()}
            all_labels = {split: [labels[index] for index in indices] for split, indices in parts.items()}
        else:
            class_names = _class_names(self._root / "train")
            found = {split: self._root / split for split in ("train", "val", "test") if (self._root / split).is_dir()}
            if "test" not in found:
                if "val" not in found:
                    raise UserError(
                        f"data.params.path={path}: has train, but neither test nor val; data.params.path="
                        f"{self._root / 'train'} splits off test images"
                    )
                found["test"] = found.pop("val")
            listed = {split: _listed(folder, class_names) for split, folder in found.items()}
            self._files = {split: files for split, (files, _) in listed.items()}
            all_labels = {split: labels for split, (_, labels) in listed.items()}
        super().__init__(
            all_labels,
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
        path = self._files[source][index]
        try:
            return resized(read_rgb(path), self.image_size, self._resize)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield each file's path within the folder, and the digest of its content."""
        files = [self._files[source][index] for index in indices]
        with ThreadPoolExecutor(self._workers) as threads:  # reading and hashing both go beside Python's lock
            for first in range(0, len(files), 1024):  # a future each for millions of files would take gigabytes
                yield from threads.map(self._identity, files[first : first + 1024])

    def _identity(self, path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        return path.relative_to(self._root).as_posix().encode() + hashlib.sha256(content).digest()


def _folders(parent: Path) -> list[Path]:
    """Return the folders in another that are not hidden, by name; none if that is none."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_names(parent: Path) -> list[str]:
    names = [folder.name for folder in _folders(parent)]
    if len(names) < 2:
        raise UserError(f"{parent}: needs a folder of images for each of two classes or more, has {names or 'none'}")
    return names


def _listed(parent: Path, class_names: list[str]) -> tuple[list[Path], list[int]]:
    """Return the images of all classes, in an order that every file system gives, and their labels.

    Raises:
        UserError: There is a class that ``class_names`` lacks, or one without images.
    """
    files: list[Path] = []
    labels: list[int] = []
    for folder in _folders(parent):
        if folder.name not in class_names:
            raise UserError(f"{folder}: a class without training images; there are {', '.join(class_names)}")
        images = sorted(_images(folder))
        if not images:
            raise UserError(f"{folder}: no image in it; remove it, or put in some ({' '.join(sorted(EXTENSIONS))})")
        files += images
        labels += [class_names.index(folder.name)] * len(images)
    if not files:
        raise UserError(f"{parent}: needs a folder of images for each class, has none")
    return files, labels


def _images(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and the folders in it, unordered; links are followed."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(parent, name)

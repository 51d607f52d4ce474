"""Base class of the data sets of image files, which may have an annotation file for each image."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fastshap_lab.data.base import Split
from fastshap_lab.data.decoded import DecodedDataModule
from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file
from fastshap_lab.images import EXTENSIONS, images_in, opened, read_rgb, resized, size_of

NOTHING: Mapping[Split, Sequence[Path]] = MappingProxyType({})


class ImageFiles(DecodedDataModule):
    """Image files in a folder, perhaps with annotation files that tell where objects are.

    The digest depends on paths within the folder and on contents, so each command reads all files once.

    Args:
        root: Path of the folder; the digest does not depend on it.
        files: Paths of the images of each split of the source.
        labels: Labels of the images of each split of the source, (N,) or (N, K).
        class_names: Names of the K classes, in the order of the labels.
        image_size: Height and width in pixels.
        annotations: Paths of the annotations, one for each image and in the same order, of the splits that have some.
        upright: Whether images are rotated as their EXIF orientation says.
        options: Further arguments of ``DecodedDataModule``.

    Raises:
        UserError: The images cannot be split as asked.
    """

    def __init__(
        self,
        root: Path,
        files: Mapping[Split, Sequence[Path]],
        labels: Mapping[Split, Sequence[int] | np.ndarray],
        class_names: Sequence[str],
        image_size: tuple[int, int],
        annotations: Mapping[Split, Sequence[Path]] = NOTHING,
        upright: bool = True,
        **options: Any,
    ) -> None:
        self._root, self._files, self._annotations, self._upright = root, files, annotations, upright
        super().__init__(labels, class_names, image_size, **options)

    def pixels(self, source: Split, index: int) -> np.ndarray:
        """Return an image, resized to ``image_size``."""
        path = self._files[source][index]
        try:
            return resized(read_rgb(path, self._upright), self.image_size, self.resize)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def original_size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height in pixels of an image before it is resized, after its rotation."""
        return size_of(self._files[source][index], self._upright)

    def size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height in pixels of an image as its file stores it, before any rotation.

        Args:
            source: Split of the source.
            index: Index of the image within that split.

        Raises:
            UserError: The file cannot be read.
        """
        path = self._files[source][index]
        try:
            with opened(path) as image:
                return image.size
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield path within the folder and digest of each image file, followed by those of its annotation."""
        kinds = [kind[source] for kind in (self._files, self._annotations) if source in kind]

        def identity(index: int) -> bytes:
            paths = [files[index] for files in kinds]
            return b"".join(os.fsencode(path.relative_to(self._root).as_posix()) + _digest(path) for path in paths)

        with ThreadPoolExecutor(self._workers) as threads:  # reading and hashing both release Python's lock
            for first in range(0, len(indices), 1024):  # futures for millions of files would take gigabytes
                yield from threads.map(identity, indices[first : first + 1024])


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's content; it raises the same errors as ``read_file``."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def folders_in(parent: Path) -> list[Path]:
    """Return the folders in ``parent`` that are not hidden, sorted by name; none if ``parent`` is no folder."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def listed(parent: Path, class_names: list[str], unknown: str) -> tuple[list[Path], list[int]]:
    """Return the paths of the images of all classes, sorted, and their labels.

    Args:
        parent: Path of the folder that contains the folders of the classes; some may be missing.
        class_names: Names of the folders, in the order of the labels.
        unknown: End of the error line about a folder that has another name.

    Raises:
        UserError: A folder has another name, or contains no image.
    """
    files: list[Path] = []
    labels: list[int] = []
    for folder in folders_in(parent):
        if folder.name not in class_names:
            raise UserError(f"{folder}: {unknown}")
        images = sorted(images_in(folder))
        if not images:
            raise UserError(f"{folder}: no image in it; remove it, or put in some ({' '.join(sorted(EXTENSIONS))})")
        files += images
        labels += [class_names.index(folder.name)] * len(images)
    if not files:
        raise UserError(f"{parent}: contains no folder; it needs a folder of images for each class")
    return files, labels

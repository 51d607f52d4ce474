"""What data sets of picture files share: decoding, digests, and annotations of the same name."""

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
    """Pictures in a folder, perhaps with a file each that says where objects are.

    The digest is of paths and contents: each command reads all files once, as fast as they can be read.

    Args:
        root: The folder, which does not count.
        files: Of the source's splits: the pictures.
        labels: Theirs.
        class_names: In the order of the labels.
        image_size: Height and width.
        annotations: Of those of the source's splits that have any: a file for each picture, in the same order.
        upright: Follow cameras' rotation tags.
        options: The others of ``DecodedDataModule``.

    Raises:
        UserError: The pictures cannot be split so.
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
        """Return an image, resized if it has to be."""
        path = self._files[source][index]
        try:
            return resized(read_rgb(path, self._upright), self.image_size, self.resize)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def original_size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height of a picture as it is shown."""
        return size_of(self._files[source][index], self._upright)

    def size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height of a stored picture in pixels.

        Args:
            source: Split that the picture is stored under.
            index: Index of the picture in that split.
        """
        path = self._files[source][index]
        try:
            with opened(path) as image:
                return image.size
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield each file's path within the folder and the digest of its content, and the same of its annotation."""
        kinds = [kind[source] for kind in (self._files, self._annotations) if source in kind]

        def identity(index: int) -> bytes:
            paths = [files[index] for files in kinds]
            return b"".join(os.fsencode(path.relative_to(self._root).as_posix()) + _digest(path) for path in paths)

        with ThreadPoolExecutor(self._workers) as threads:  # reading and hashing both go beside Python's lock
            for first in range(0, len(indices), 1024):  # a future each for millions of files would take gigabytes
                yield from threads.map(identity, indices[first : first + 1024])


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        UserError: It cannot be read; names it, and says why.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _digest(path: Path) -> bytes:
    """Return the SHA-256 of a file's content; errors as for ``read_file``."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def folders_in(parent: Path) -> list[Path]:
    """Return the folders in another that are not hidden, by name; none if that is none."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def listed(parent: Path, class_names: list[str], unknown: str) -> tuple[list[Path], list[int]]:
    """Return the images of all classes, in an order that every file system gives, and their labels.

    Args:
        parent: Has a folder for each class, or for some.
        class_names: What these are called, in the order of the labels.
        unknown: What to say of a folder that is called otherwise.

    Raises:
        UserError: There is such a folder, or one without images.
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
        raise UserError(f"{parent}: needs a folder of images for each class, has none")
    return files, labels

"""Images that a program passes in memory or as paths: files, PIL images, tensors, or a data set of another library."""

import hashlib
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fastshap_lab.data.base import Split
from fastshap_lab.data.decoded import MAX_RESIDENT, DecodedDataModule, shuffled
from fastshap_lab.data.splits import NO_LABEL
from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file
from fastshap_lab.images import EXTENSIONS, Resize, images_in, read_rgb, resized, size_of, to_rgb, to_tensor

MIN_IMAGES = 10
"""Smallest number of images that can be split into training, validation and test images."""

_TEST, _VAL = 0.2, 0.1
_SPLITS = ("train", "val", "test")


class Pictures:
    """Images of any source by their indices, with their labels if the source has some.

    Args:
        images: A folder, whose subfolders are the labels if all images are in subfolders; a list of paths, PIL images
            or tensors (3, H, W); a tensor (N, 3, H, W); or a map-style data set, whose items are images or tuples that
            begin with an image and a label. Tensors are uint8, or floats in [0, 1].

    Raises:
        UserError: ``images`` is none of these, or there are fewer than ``MIN_IMAGES``.
    """

    def __init__(self, images: Any) -> None:
        self.labels: list[int] | None = None
        self.folders: list[str] | None = None
        """Names of the subfolders, which the labels are indices of; None if the images come from elsewhere."""
        self.given: Any = images
        if isinstance(images, str | Path):
            root = Path(images).expanduser()
            if not root.is_dir():
                raise UserError(f"images={images}: no such folder; one image can be given as a list of paths")
            self.given = sorted(images_in(root))
            if not self.given:
                raise UserError(f"images={images}: no image in it ({' '.join(sorted(EXTENSIONS))})")
            parts = [path.relative_to(root).parts for path in self.given]
            parts = [one[1:] if one[0] in _SPLITS else one for one in parts]
            if all(len(one) > 1 for one in parts) and len(found := sorted({one[0] for one in parts})) > 1:
                self.folders, self.labels = found, [found.index(one[0]) for one in parts]
        elif not isinstance(images, Sized) or not hasattr(images, "__getitem__") or hasattr(images, "batch_size"):
            raise UserError(
                f"images: is a {type(images).__name__}, must be a folder, a list of paths or images, a tensor "
                "(N, 3, H, W), or a data set with a length and indices"
            )
        if len(self.given) < MIN_IMAGES:
            raise UserError(
                f"images: there are {len(self.given)}, must be at least {MIN_IMAGES} for training, validation and test"
            )
        first = self.item(0)
        if isinstance(first, tuple) and len(first) > 1 and not isinstance(images, list | tuple | Tensor):
            self.labels = self._labels_of_items()

    def __len__(self) -> int:
        return len(self.given)

    def item(self, index: int) -> Any:
        """Return an item of the source: an image, a path, or a tuple that begins with one of them."""
        return self.given[index]

    def image(self, index: int) -> Any:
        """Return an image as a path, a PIL image or a tensor.

        Raises:
            UserError: The item is something else.
        """
        image = self.item(index)
        image = image[0] if isinstance(image, tuple) else image
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 1:
            image = image.expand(3, -1, -1)  # grey
        if not isinstance(image, str | Path | Image.Image | Tensor):
            raise UserError(
                f"images: number {index} is a {type(image).__name__}, must be a path, a PIL image or a tensor"
            )
        return image

    def size(self) -> tuple[int, int] | None:
        """Return height and width in pixels if they are the same for all images, else None.

        Of a data set or a tensor, only the first ten images are compared.
        """
        listed = isinstance(self.given, list | tuple)
        looked_at = range(len(self)) if listed else range(MIN_IMAGES)
        sizes = {self.original_size(index) for index in looked_at}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def of_tensors(self) -> bool:
        """Return whether the images are tensors, which are never resized."""
        return isinstance(self.image(0), Tensor)

    def pixels(self, index: int, size: tuple[int, int], resize: Resize) -> np.ndarray:
        """Return an image as uint8 (3, H, W).

        Args:
            index: Index of the image.
            size: Height and width in pixels to resize it to.
            resize: How an image of another size is resized; see ``images.resized``.

        Raises:
            UserError: The image cannot be read, or is a tensor of another size or range.
        """
        image = self.image(index)
        if isinstance(image, Tensor):
            try:
                [pixels] = to_tensor(image.cpu(), size)
            except UserError as error:
                raise UserError(f"images: number {index}: {error}") from None
            return pixels.mul(255).round().byte().numpy()
        try:
            return resized(to_rgb(image) if isinstance(image, Image.Image) else read_rgb(image), size, resize)
        except UserError as error:
            raise UserError(
                f"{image if isinstance(image, str | Path) else f'images: number {index}'}: {error}"
            ) from error

    def identity(self, index: int, size: tuple[int, int], resize: Resize) -> bytes:
        """Return the SHA-256 of the image's file or, for an image in memory, of its pixels.

        Args:
            index: Index of the image.
            size: Height and width in pixels, as for ``pixels``.
            resize: How an image of another size is resized, as for ``pixels``.
        """
        image = self.image(index)
        if isinstance(image, str | Path):
            try:
                with open_file(image) as file:
                    return hashlib.file_digest(file, "sha256").digest()
            except OSError as error:
                raise UserError(f"{image}: cannot be read: {error.strerror}") from None
        return hashlib.sha256(self.pixels(index, size, resize).tobytes()).digest()

    def original_size(self, index: int) -> tuple[int, int]:
        """Return height and width in pixels of an image before it is resized."""
        image = self.image(index)
        if isinstance(image, Tensor):
            return image.shape[-2], image.shape[-1]
        try:
            width, height = image.size if isinstance(image, Image.Image) else size_of(image)
        except UserError as error:
            raise UserError(f"{image}: {error}") from error
        return height, width

    def _labels_of_items(self) -> list[int]:
        targets = getattr(self.given, "targets", None)  # as torchvision's data sets list them
        if targets is None or len(targets) != len(self):
            targets = [self.item(index)[1] for index in range(len(self))]
        try:
            return [int(target) for target in targets]
        except (TypeError, ValueError):
            raise UserError("images: the labels of the data set must be class indices; leave out other ones") from None


class HandedOver(DecodedDataModule):
    """Images that a program passes: a tenth are validation, a fifth test images, and the split is always the same.

    Args:
        pictures: The images.
        labels: Class indices (N,), or None if the images have no labels.
        class_names: Names of the K classes of the model.
        image_size: Height and width in pixels.
        resize: How images of another size are brought to ``image_size``; see ``images.resized``.
        max_resident: Bytes of pixels; a split that has more is decoded batch by batch in every pass.
        workers: Number of decoding threads. None: one for each available core.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: Sequence[int] | None,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        resize: Resize = "stretch",
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
    ) -> None:
        number = len(pictures)
        known = [NO_LABEL] * number if labels is None else list(labels)
        order = shuffled(number).tolist()
        ends = round(_TEST * number), round(_TEST * number) + max(1, round(_VAL * number))
        self._order: dict[Split, list[int]] = {
            "test": order[: ends[0]],
            "val": order[ends[0] : ends[1]],
            "train": order[ends[1] :],
        }
        self._pictures = pictures
        super().__init__(
            {split: [known[index] for index in indices] for split, indices in self._order.items()},
            class_names,
            image_size,
            val_fraction=_VAL,
            limit_train=None,
            limit_test=None,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
        )

    def pixels(self, source: Split, index: int) -> np.ndarray:
        """Return an image, resized to ``image_size``."""
        return self._pictures.pixels(self._order[source][index], self.image_size, self.resize)

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the digest of each image's file or pixels."""
        for index in indices:
            yield self._pictures.identity(self._order[source][index], self.image_size, self.resize)

    def original_size(self, source: Split, index: int) -> tuple[int, int]:
        """Return width and height in pixels of an image before it is resized."""
        height, width = self._pictures.original_size(self._order[source][index])
        return width, height

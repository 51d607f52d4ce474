"""CIFAR-10, as its authors distribute it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from torchvision.datasets import CIFAR10

from fastshap_lab.data.base import Split, height_and_width
from fastshap_lab.data.decoded import MAX_RESIDENT, DecodedDataModule
from fastshap_lab.errors import UserError
from fastshap_lab.images import resized


class Cifar10(DecodedDataModule):
    """60,000 photographs of 32×32 pixels in ten classes: 45,000 to train on, 5,000 to validate, 10,000 to test.

    Reference: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        root: Folder that has ``cifar-10-batches-py``, or is to get it.
        download: Fetch the 170 MB if they are not there.
        image_size: Height and width, or the side of a square; other sizes than 32 are resized to.
        val_fraction: Share of the training images to validate on.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.
        max_resident: Splits of more bytes are decoded as they are needed.
        workers: Decoding threads; one for each available core if None.

    Raises:
        UserError: The files are not there, or damaged, and not to be had.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = True,
        image_size: int | tuple[int, int] = 32,
        val_fraction: float = 0.1,
        limit_train: int | None = None,
        limit_test: int | None = None,
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
    ) -> None:
        train, test = _open(root, download)
        self._images: dict[Split, np.ndarray] = {"train": train.data, "test": test.data}  # (N, 32, 32, 3)
        super().__init__(
            {"train": train.targets, "test": test.targets},
            train.classes,
            height_and_width(image_size),
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            max_resident=max_resident,
            workers=workers,
        )

    def pixels(self, source: Split, index: int) -> np.ndarray:
        """Return an image, resized if it has to be."""
        return resized(Image.fromarray(self._images[source][index]), self.image_size)

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the images as they are."""
        for index in indices:
            yield self._images[source][index].tobytes()


def _open(root: str, download: bool) -> tuple[CIFAR10, CIFAR10]:
    """Return training and test images.

    The files are pickles. torchvision compares each with the MD5 that it knows before it unpickles it, so that nothing
    but the authors' own is ever run.
    """
    try:
        return CIFAR10(root, train=True), CIFAR10(root, train=False)
    except RuntimeError:  # not there, or not whole
        hint = "no undamaged CIFAR-10 (cifar-10-batches-py) is there"
        if not download:
            raise UserError(f"data.params.root={root}: {hint}; data.params.download=true fetches it") from None
    try:
        Path(root).expanduser().mkdir(parents=True, exist_ok=True)
        with FileLock(Path(root).expanduser() / ".cifar10.lock"):  # the agents of a sweep start at once
            return CIFAR10(root, train=True, download=True), CIFAR10(root, train=False)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.params.root={root}: {hint}, and it cannot be downloaded ({reason}); put {CIFAR10.filename} there, "
            "or take other files of it with data=hub data.params.path=<folder>"
        ) from None

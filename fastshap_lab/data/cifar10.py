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
    """60,000 photographs of 32×32 pixels in ten classes: 45,000 training, 5,000 validation and 10,000 test images.

    Reference: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        root: Folder that contains ``cifar-10-batches-py``, or that it is downloaded to.
        download: Whether to download the 170 MB if they are missing.
        image_size: Height and width in pixels, or one number for a square; images are resized if it is not 32.
        val_fraction: Fraction of the training images that become validation images.
        limit_train: Maximum number of training images; validation images are reduced in proportion. None: all.
        limit_test: Maximum number of test images. None: all.
        max_resident: Bytes of pixels; a split that has more is decoded batch by batch in every pass.
        workers: Number of decoding threads. None: one for each available core.

    Raises:
        UserError: The files are missing or damaged, and cannot be or are not to be downloaded.
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
        """Return an image, resized to ``image_size``."""
        return resized(Image.fromarray(self._images[source][index]), self.image_size)

    def identities(self, source: Split, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the pixels of each image before it is resized."""
        for index in indices:
            yield self._images[source][index].tobytes()


def _open(root: str, download: bool) -> tuple[CIFAR10, CIFAR10]:
    """Return training and test images.

    The files are pickles. torchvision compares the MD5 of each with the one it knows before it unpickles the file, so
    that only the authors' own files are ever unpickled.
    """
    try:
        return CIFAR10(root, train=True), CIFAR10(root, train=False)
    except RuntimeError:  # missing or damaged
        hint = "no undamaged CIFAR-10 (cifar-10-batches-py) is there"
        if not download:
            raise UserError(f"data.params.root={root}: {hint}; data.params.download=true fetches it") from None
    try:
        Path(root).expanduser().mkdir(parents=True, exist_ok=True)
        with FileLock(Path(root).expanduser() / ".cifar10.lock"):  # the agents of a sweep start at the same time
            return CIFAR10(root, train=True, download=True), CIFAR10(root, train=False)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.params.root={root}: {hint}, and it cannot be downloaded ({reason}); put {CIFAR10.filename} there, "
            "or read another copy of it with data=hub data.params.path=<folder>"
        ) from None

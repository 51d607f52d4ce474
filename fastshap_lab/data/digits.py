"""The handwritten digits of scikit-learn, which need no download."""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from fastshap_lab.data.base import SPLITS, ImageDataModule, Split, height_and_width, stratified_split
from fastshap_lab.data.splits import TensorImages


class Digits(ImageDataModule):
    """1,797 scans of 8×8 pixels, enlarged to ``image_size``: 1,257 training, 180 validation and 360 test images.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.

    Args:
        image_size: Height and width in pixels, or one number for a square.
    """

    def __init__(self, image_size: int | tuple[int, int] = 16) -> None:
        super().__init__([str(digit) for digit in range(10)], height_and_width(image_size))
        self._scans, self._labels = load_digits(return_X_y=True)
        rest, test = stratified_split(self._labels, 360)
        train, val = stratified_split(self._labels[rest], 180)
        self._indices: dict[Split, np.ndarray] = {"train": rest[train], "val": rest[val], "test": test}

    def load(self, split: Split) -> TensorImages:
        """Return the enlarged scans of a split."""
        indices = self._indices[split]
        scans = torch.from_numpy(self._scans[indices]).float().view(-1, 1, 8, 8) * (255 / 16)  # values are 0 to 16
        images = F.interpolate(scans, size=self.image_size, mode="bilinear", align_corners=False)
        return TensorImages(
            images.round().to(torch.uint8).repeat(1, 3, 1, 1), torch.from_numpy(self._labels[indices]).long()
        )

    def content(self) -> Iterator[bytes]:
        """Yield the scans and labels of each split."""
        for split in SPLITS:
            yield self._scans[self._indices[split]].astype(np.uint8).tobytes()
            yield self._labels[self._indices[split]].astype(np.uint8).tobytes()

"""Images of a data set under the classes of a model that is not trained."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from fastshap_lab.data.base import ImageDataModule, Split
from fastshap_lab.data.splits import NO_LABEL, ImageSplit


class Relabelled(ImageDataModule):
    """The same images, with a model's numbers as labels.

    Args:
        data: The data set.
        class_names: The model's.
        translation: Of each of the data's classes: the model's number, or None where the model knows it not. Its images
            have no label.
    """

    def __init__(self, data: ImageDataModule, class_names: Sequence[str], translation: Sequence[int | None]) -> None:
        super().__init__(list(class_names), data.image_size)
        self.resize = data.resize
        self._data, self._numbers = data, [NO_LABEL if number is None else number for number in translation]

    def notice(self) -> str | None:
        """Return what the user should know of the images."""
        return self._data.notice()

    def load(self, split: Split) -> ImageSplit:
        """Return a split, its labels translated."""
        loaded = self._data.load(split)
        numbers = torch.tensor([*self._numbers, NO_LABEL])
        return replace(loaded, labels=numbers[loaded.labels.clamp_min(-1)])  # what has no label takes the last

    def content(self) -> Iterator[bytes]:
        """Yield what decides over the images, and the translation."""
        yield repr(self._numbers).encode()
        yield self._data.digest().encode()

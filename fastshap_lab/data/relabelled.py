"""Images of a data set under the classes of a model that is not trained."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from fastshap_lab.data.base import ImageDataModule, Split
from fastshap_lab.data.imagenet import imagenet_classes
from fastshap_lab.data.splits import NO_LABEL, ImageSplit


class Relabelled(ImageDataModule):
    """The same images, with a model's numbers as labels.

    Args:
        data: The data set.
        class_names: The model's. Images of classes that it does not know have no label.
    """

    def __init__(self, data: ImageDataModule, class_names: Sequence[str]) -> None:
        super().__init__(list(class_names), data.image_size)
        self.resize = data.resize
        translated = translation(data.class_names, class_names)
        self._data, self._numbers = data, [NO_LABEL if number is None else number for number in translated]

    def notice(self) -> str | None:
        """Return what the user should know of the images."""
        return self._data.notice()

    def count(self, split: Split) -> int:
        """Return the number of images in a split."""
        return self._data.count(split)

    def load(self, split: Split) -> ImageSplit:
        """Return a split, its labels translated."""
        loaded = self._data.load(split)
        numbers = torch.tensor([*self._numbers, NO_LABEL])
        return replace(loaded, labels=numbers[loaded.labels.clamp_min(-1)])  # what has no label takes the last

    def content(self) -> Iterator[bytes]:
        """Yield what decides over the images, and the translation."""
        yield repr(self._numbers).encode()
        yield self._data.digest().encode()


def translation(own: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Return, for each class of the data, its index among a model's classes.

    The index is None where none or several have its name. Upper and lower case are the same, and so are underscores and
    spaces. A class may have several names, separated by commas. WordNet ids of ImageNet's classes are known.

    Args:
        own: Names of the data's classes.
        names: Names of the model's classes.
    """
    wnids = imagenet_classes()[0]
    if own and len(names) == len(wnids) and set(own) <= set(wnids):
        return [wnids.index(name) for name in own]
    found: dict[str, set[int]] = {}
    for number, name in enumerate(names):
        for synonym in {_bare_name(one) for one in (name, *name.split(","))}:
            found.setdefault(synonym, set()).add(number)
    numbers = [found.get(_bare_name(name), set()) for name in own]
    return [next(iter(one)) if len(one) == 1 else None for one in numbers]


def _bare_name(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())

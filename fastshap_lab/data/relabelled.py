"""A data set whose labels are translated to the classes of a classifier that is used as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from fastshap_lab.data.base import ImageDataModule, Split
from fastshap_lab.data.imagenet import imagenet_classes
from fastshap_lab.data.splits import NO_LABEL, ImageSplit


class Relabelled(ImageDataModule):
    """The images of a data set, labelled with the class indices of a model.

    Args:
        data: The data set.
        class_names: Names of the model's K classes. Images of other classes have no label.
    """

    def __init__(self, data: ImageDataModule, class_names: Sequence[str]) -> None:
        super().__init__(list(class_names), data.image_size)
        self.resize = data.resize
        translated = translation(data.class_names, class_names)
        self._data, self._numbers = data, [NO_LABEL if number is None else number for number in translated]

    def notice(self) -> str | None:
        """Return the remark of the original data set."""
        return self._data.notice()

    def count(self, split: Split) -> int:
        """Return the number of images in a split."""
        return self._data.count(split)

    def load(self, split: Split) -> ImageSplit:
        """Return a split with translated labels."""
        loaded = self._data.load(split)
        numbers = torch.tensor([*self._numbers, NO_LABEL])
        return replace(loaded, labels=numbers[loaded.labels.clamp_min(-1)])  # NO_LABEL becomes -1, the last entry

    def content(self) -> Iterator[bytes]:
        """Yield the translation of labels and the digest of the original data set."""
        yield repr(self._numbers).encode()
        yield self._data.digest().encode()


def translation(own: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Return the model's class index for each class of the data; None where no class or several have the same name.

    Case and underscores are ignored, and a model's class may have several names with commas between them. WordNet ids
    match the classes of a model for ImageNet.

    Args:
        own: Names of the data set's classes.
        names: Names of the model's K classes.
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

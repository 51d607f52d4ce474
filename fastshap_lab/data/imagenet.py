"""ImageNet's images, with the bounding boxes of the localization challenge."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.data import ImageNetInfo

from fastshap_lab.data.annotations import read_boxes
from fastshap_lab.data.base import Split, height_and_width
from fastshap_lab.data.decoded import MAX_RESIDENT, shuffled
from fastshap_lab.data.image_files import ImageFiles, folders_in, listed
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize, box_region, resized_boxes

_UNKNOWN = "none of ImageNet's 1,000 classes; folders must have names such as n01440764"


class ImageNet(ImageFiles):
    """Images of a thousand classes, ``val/<wnid>/<image>.JPEG``; classes and images may be missing.

    If ``train/<wnid>/…`` exists, the images in ``val`` are the test images, and validation images are split off from
    the training images. Otherwise all three splits come from ``val``. ``boxes/val/<image>.xml`` contains the boxes of
    an image; those of its own class are its region.

    Reference: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.

    Args:
        root: Path of the folder that contains ``val``.
        image_size: Height and width in pixels, or one number for a square.
        resize: ``imagenet`` (the usual preparation for networks on ImageNet), ``stretch``, ``crop`` or ``pad``; see
            ``images.resized``.
        val_fraction: Fraction of the training images that become validation images.
        test_fraction: Fraction of the images that become test images if there is no ``train``.
        limit_train: Maximum number of training images; validation images are reduced in proportion. None: all.
        limit_test: Maximum number of test images. None: all.
        max_resident: Bytes of pixels; a split that has more is decoded batch by batch in every pass.
        workers: Number of decoding threads. None: one for each available core.

    Raises:
        UserError: There are no images, or they cannot be split as asked.
    """

    def __init__(
        self,
        root: str,
        image_size: int | tuple[int, int] = 224,
        resize: Resize = "imagenet",
        val_fraction: float = 0.1,
        test_fraction: float = 0.5,
        limit_train: int | None = None,
        limit_test: int | None = None,
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
    ) -> None:
        self._wnids, class_names = imagenet_classes()
        top = Path(root).expanduser()
        if not folders_in(top / "val"):
            raise UserError(f"data.params.root={root}: no val/<wnid>/<image>.JPEG is there")
        files, labels = listed(top / "val", self._wnids, _UNKNOWN)
        if folders_in(top / "train"):
            parts: dict[Split, np.ndarray] = {"test": np.arange(len(files))}
        else:
            parts = _parts(len(files), test_fraction, val_fraction)
        all_files = {split: [files[index] for index in indices] for split, indices in parts.items()}
        all_labels = {split: [labels[index] for index in indices] for split, indices in parts.items()}
        boxes, annotations = top / "boxes" / "val", {}
        if boxes.is_dir():
            annotations = {split: [boxes / f"{file.stem}.xml" for file in held] for split, held in all_files.items()}
        if "train" not in parts:
            all_files["train"], all_labels["train"] = listed(top / "train", self._wnids, _UNKNOWN)
        super().__init__(
            top,
            all_files,
            all_labels,
            class_names,
            height_and_width(image_size),
            annotations,
            upright=False,  # boxes refer to images as they are stored, and networks are tested on these
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
        )

    def regions(self, source: Split) -> Callable[[int], np.ndarray] | None:
        """Return the function from an index to the region of the object, for images with boxes; else None."""
        return partial(self._boxes_of, source) if source in self._annotations else None

    def _boxes_of(self, source: Split, index: int) -> np.ndarray:
        boxes, original = read_boxes(self._annotations[source][index], first_pixel=0), self.size(source, index)
        chosen = [name == self._wnids[self._labels[source][index]] for name in boxes.names]
        # Images may have been made smaller later: boxes refer to the image size in their own file.
        scale = [side / stated for side, stated in zip(original, boxes.picture, strict=True)] * 2
        edges = boxes.edges[torch.tensor(chosen, dtype=torch.bool)] * torch.tensor(scale, dtype=torch.float64)
        return box_region(resized_boxes(edges, original, self.image_size, self.resize), self.image_size).byte().numpy()


def imagenet_classes() -> tuple[list[str], list[str]]:
    """Return WordNet ids and names of the 1,000 classes, in the order of the outputs of networks for ImageNet."""
    info = ImageNetInfo()
    return info.label_names(), [description.split(",")[0] for description in info.label_descriptions()]


def _parts(count: int, test_fraction: float, val_fraction: float) -> dict[Split, np.ndarray]:
    """Return the indices of each split; they are not stratified, as a small sample has too few images of each class."""
    test = round(test_fraction * count)
    val = round(val_fraction * (count - test))
    fractions = {"test_fraction": (test_fraction, test, count), "val_fraction": (val_fraction, val, count - test)}
    for option, (fraction, part, whole) in fractions.items():
        if not 0 < part < whole:
            raise UserError(
                f"data.params.{option}={fraction}: gives {part} of {whole} images, must leave at least one on each side"
            )
    order = shuffled(count)
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}

"""ImageNet: its validation images, with the boxes of the localization challenge."""

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

_UNKNOWN = "none of ImageNet's 1,000 classes; their folders are called as n01440764"


class ImageNet(ImageFiles):
    """Images of a thousand classes, ``val/<wnid>/<image>.JPEG``, of which some may be missing.

    With ``train/<wnid>/…``, the validation images are for testing and others are split off from the training images.
    Without it, all three come from the validation images. Where ``boxes/val/<image>.xml`` says where objects are, those
    count that are of the image's class.

    Reference: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.

    Args:
        root: Folder that has ``val``.
        image_size: Height and width, or the side of a square.
        resize: ``imagenet``, as networks for it are tested, ``stretch``, ``crop`` or ``pad`` (see ``images.resized``).
        val_fraction: Share of the training images to validate on.
        test_fraction: Share of the images to test on, without ``train``.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.
        max_resident: Splits of more bytes are decoded as they are needed.
        workers: Decoding threads; one for each available core if None.

    Raises:
        UserError: There are no images, or they cannot be split so.
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
            upright=False,  # neither do boxes follow cameras' tags, nor the tests of networks
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
        )

    def regions(self, source: Split) -> Callable[[int], np.ndarray] | None:
        """Return what says where an image of the source has its object, for validation images with boxes."""
        return partial(self._boxes_of, source) if source in self._annotations else None

    def _boxes_of(self, source: Split, index: int) -> np.ndarray:
        boxes, original = read_boxes(self._annotations[source][index], first_pixel=0), self.size(source, index)
        chosen = [name == self._wnids[self._labels[source][index]] for name in boxes.names]
        # Images may have been made smaller since: boxes are measured in the size that their file states.
        scale = [side / stated for side, stated in zip(original, boxes.picture, strict=True)] * 2
        edges = boxes.edges[torch.tensor(chosen, dtype=torch.bool)] * torch.tensor(scale, dtype=torch.float64)
        return box_region(resized_boxes(edges, original, self.image_size, self.resize), self.image_size).byte().numpy()


def imagenet_classes() -> tuple[list[str], list[str]]:
    """Return WordNet ids and names of the 1,000 classes, in the order of the labels that networks are trained on."""
    info = ImageNetInfo()
    return info.label_names(), [description.split(",")[0] for description in info.label_descriptions()]


def _parts(count: int, test_fraction: float, val_fraction: float) -> dict[Split, np.ndarray]:
    """Return which images to train, validate and test on; not by class, of which a small sample has too few."""
    test = round(test_fraction * count)
    val = round(val_fraction * (count - test))
    fractions = {"test_fraction": (test_fraction, test, count), "val_fraction": (val_fraction, val, count - test)}
    for option, (fraction, part, whole) in fractions.items():
        if not 0 < part < whole:
            raise UserError(f"data.params.{option}={fraction}: {part} of {whole} images; needs some on either side")
    order = shuffled(count)
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}

"""PASCAL VOC 2012: photographs with objects of twenty classes, and their bounding boxes or segmentation masks."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torchvision.datasets import VOCSegmentation

from fastshap_lab.data.annotations import read_boxes
from fastshap_lab.data.base import Split, height_and_width
from fastshap_lab.data.decoded import MAX_RESIDENT, available_cores
from fastshap_lab.data.image_files import ImageFiles, read_file
from fastshap_lab.data.imagenet import imagenet_classes
from fastshap_lab.data.splits import NO_LABEL, VOID
from fastshap_lab.errors import UserError
from fastshap_lab.images import Resize, box_region, opened, resized_boxes, resized_labels

CLASSES = (  # in the order of the segmentation masks' values, which start at 1
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_LAYOUT = {"segmentation": ("Segmentation", "SegmentationClass", ".png"), "boxes": ("Main", "Annotations", ".xml")}


class Voc(ImageFiles):
    """Photographs with segmentation masks (1,464 and 1,449 images) or bounding boxes (5,717 and 5,823 images).

    The first number is that of the authors' list ``train``, which training and validation images come from, the second
    that of their list ``val``, which is the test set. The label of an image is the class with the most pixels, or with
    the largest box, in the whole image.

    Reference: Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015.

    Args:
        root: Folder that contains ``VOCdevkit/VOC2012``, or that it is downloaded to.
        download: Whether to download the 2 GB if they are missing.
        regions: Source of the objects' regions: masks (``segmentation``, borders of objects are void) or ``boxes``.
        foreground: Objects that make up the region: those of the class of the ``label``, or ``any``.
        classes: ``voc``, or ``imagenet`` for networks trained on ImageNet: images then have no labels, and
            ``foreground`` must be ``any``.
        image_size: Height and width in pixels, or one number for a square.
        resize: ``stretch``, ``crop``, ``pad``, or ``imagenet`` (see ``images.resized``).
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
        download: bool = False,
        regions: Literal["segmentation", "boxes"] = "segmentation",
        foreground: Literal["label", "any"] = "label",
        classes: Literal["voc", "imagenet"] = "voc",
        image_size: int | tuple[int, int] = 224,
        resize: Resize = "stretch",
        val_fraction: float = 0.1,
        limit_train: int | None = None,
        limit_test: int | None = None,
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
    ) -> None:
        if classes == "imagenet" and foreground != "any":
            raise UserError("data.params.classes=imagenet: images have no labels then; set data.params.foreground=any")
        folder = _open(root, download)
        self._kind, self._foreground = regions, foreground
        listed_in, annotated_in, suffix = _LAYOUT[regions]
        lists: dict[Split, Path] = {
            "train": folder / "ImageSets" / listed_in / "train.txt",
            "test": folder / "ImageSets" / listed_in / "val.txt",
        }
        names = {split: _names_in(path) for split, path in lists.items()}
        annotations = {split: [folder / annotated_in / f"{name}{suffix}" for name in names[split]] for split in names}
        label = _most_pixels if regions == "segmentation" else _largest_box
        with ThreadPoolExecutor(available_cores()) as threads:
            labels = {
                split: [NO_LABEL] * len(paths) if classes == "imagenet" else list(threads.map(label, paths))
                for split, paths in annotations.items()
            }
        super().__init__(
            folder,
            {split: [folder / "JPEGImages" / f"{name}.jpg" for name in names[split]] for split in names},
            labels,
            imagenet_classes()[1] if classes == "imagenet" else CLASSES,
            height_and_width(image_size),
            annotations,
            upright=False,  # annotations refer to images as they are stored
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
        )

    def content(self) -> Iterator[bytes]:
        """Yield the arguments that determine the regions, then what identifies the images."""
        yield f"{self._kind} {self._foreground}".encode()
        yield from super().content()

    def regions(self, source: Split) -> Callable[[int], np.ndarray]:
        """Return the function from an index within a split of the source to the region of the objects."""
        of_pixels = self._kind == "segmentation"
        return lambda index: self._pixels_of(source, index) if of_pixels else self._boxes_of(source, index)

    def _pixels_of(self, source: Split, index: int) -> np.ndarray:
        labels = resized_labels(_labels_of_pixels(self._annotations[source][index]), self.image_size, self.resize)
        inside = labels > 0 if self._foreground == "any" else labels == self._labels[source][index] + 1
        return np.where(labels == VOID, VOID, inside).astype(np.uint8)

    def _boxes_of(self, source: Split, index: int) -> np.ndarray:
        boxes = read_boxes(self._annotations[source][index], first_pixel=1)
        chosen = [self._foreground == "any" or name == CLASSES[self._labels[source][index]] for name in boxes.names]
        edges = boxes.edges[torch.tensor(chosen, dtype=torch.bool)]
        edges = resized_boxes(edges, self.size(source, index), self.image_size, self.resize)
        return box_region(edges, self.image_size).byte().numpy()


def _open(root: str, download: bool) -> Path:
    """Return the folder ``VOCdevkit/VOC2012``, which is downloaded if it is missing and ``download`` is set."""
    top = Path(root).expanduser()
    folder = top / "VOCdevkit" / "VOC2012"
    hint = "no PASCAL VOC 2012 (VOCdevkit/VOC2012) is there"
    if folder.is_dir():
        return folder
    if not download:
        raise UserError(f"data.params.root={root}: {hint}; data.params.download=true fetches it (2 GB)")
    try:
        top.mkdir(parents=True, exist_ok=True)
        with FileLock(top / ".voc.lock"):  # the agents of a sweep start at the same time
            if not folder.is_dir():
                VOCSegmentation(top, year="2012", download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.params.root={root}: {hint}, and it cannot be downloaded ({reason})") from None
    return folder


def _names_in(path: Path) -> list[str]:
    try:
        return read_file(path).decode().split()
    except UnicodeDecodeError:
        raise UserError(f"{path}: must be a list of names in UTF-8") from None


def _labels_of_pixels(path: Path) -> Image.Image:
    """Return a segmentation mask, whose pixels are 0 (background), 1 to 20 (classes) or ``VOID``."""
    content = read_file(path)
    try:
        with opened(BytesIO(content)) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"its mode is {image.mode}, must be P or L")
            return image.copy()
    except UserError as error:
        raise UserError(f"{path}: the segmentation mask {error}") from None


def _most_pixels(path: Path) -> int:
    counts = np.bincount(np.asarray(_labels_of_pixels(path)).ravel(), minlength=256)
    counts[[0, VOID]] = 0
    if not counts[1 : len(CLASSES) + 1].any() or counts[len(CLASSES) + 1 :].any():
        raise UserError(f"{path}: its objects are of classes {np.flatnonzero(counts).tolist()}, must be from 1 to 20")
    return int(counts.argmax()) - 1


def _largest_box(path: Path) -> int:
    boxes = read_boxes(path, first_pixel=1)
    if not boxes.names or not set(boxes.names) <= set(CLASSES):
        raise UserError(f"{path}: its objects are {boxes.names}, must be at least one of {', '.join(CLASSES)}")
    left, top, right, bottom = boxes.edges.unbind(dim=1)
    return CLASSES.index(boxes.names[int(((right - left) * (bottom - top)).argmax())])

"""A folder of images, with a folder per class."""

from pathlib import Path
from typing import Literal

import numpy as np

from fastshap_lab.data.base import height_and_width
from fastshap_lab.data.decoded import MAX_RESIDENT, split_off
from fastshap_lab.data.image_files import ImageFiles, folders_in, listed
from fastshap_lab.data.splits import NO_LABEL
from fastshap_lab.errors import UserError
from fastshap_lab.images import EXTENSIONS, Resize, images_in


class Folder(ImageFiles):
    """Images of any size and kind in folders that are called as their class.

    Either ``train/<class>/…`` and ``test/<class>/…`` (validation images come from ``val/<class>/…`` if there is one,
    else from the training images; without ``test``, ``val`` is the test set), or ``<class>/…`` alone, from which test
    and validation images are split off, with the classes in proportion. Folders within a class belong to it.

    Files without an image's extension are passed over, as is what begins with a dot. Images become RGB as
    ``images.to_rgb`` says. Those of another size are stretched, as an explainer does with files; ``resize=crop`` keeps
    the proportions and cuts off what is beyond the largest part in the centre that has those of ``image_size``, ``pad``
    keeps them and all of the image, with black beside it.

    Args:
        path: The folder.
        image_size: Height and width, or the side of a square.
        resize: ``stretch``, ``crop``, ``pad``, or ``imagenet`` (see ``images.resized``).
        val_fraction: Share of the training images to validate on, without ``val``.
        test_fraction: Share of the images to test on, without ``train`` and ``test``.
        limit_train: Use only so many training images, and validation images in proportion.
        limit_test: Use only so many test images.
        max_resident: Splits of more bytes are decoded as they are needed.
        workers: Decoding threads; one for each available core if None.
        classes: Those that ``folders`` are called as, or ``none``: any images in the folder and those in it, without
            labels. They can be explained with a classifier that is not trained and brings its classes.

    Raises:
        UserError: The folder, a class or an image is not there or not readable.
    """

    def __init__(
        self,
        path: str,
        image_size: int | tuple[int, int] = 224,
        resize: Resize = "stretch",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        limit_train: int | None = None,
        limit_test: int | None = None,
        max_resident: int = MAX_RESIDENT,
        workers: int | None = None,
        classes: Literal["folders", "none"] = "folders",
    ) -> None:
        root = Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"data.params.path={path}: no such folder")
        class_names: list[str]
        if classes == "none":
            files = sorted(images_in(root))
            if not files:
                raise UserError(f"data.params.path={path}: no image in it ({' '.join(sorted(EXTENSIONS))})")
            class_names, labels = [], [NO_LABEL] * len(files)
            train, test = split_off(np.array(labels), "test_fraction", test_fraction)
            all_files = {"train": [files[index] for index in train], "test": [files[index] for index in test]}
            all_labels = {"train": [NO_LABEL] * len(train), "test": [NO_LABEL] * len(test)}
        elif not any(folders_in(root / "train")):
            class_names = _class_names(root)
            files, labels = listed(root, class_names, "")
            train, test = split_off(np.array(labels), "test_fraction", test_fraction)
            parts = {"train": train.tolist(), "test": test.tolist()}
            all_files = {split: [files[index] for index in indices] for split, indices in parts.items()}
            all_labels = {split: [labels[index] for index in indices] for split, indices in parts.items()}
        else:
            class_names = _class_names(root / "train")
            found = {split: root / split for split in ("train", "val", "test") if (root / split).is_dir()}
            if "test" not in found:
                if "val" not in found:
                    raise UserError(
                        f"data.params.path={path}: has train, but neither test nor val; data.params.path="
                        f"{root / 'train'} splits off test images"
                    )
                found["test"] = found.pop("val")
            unknown = f"a class without training images; there are {', '.join(class_names)}"
            read = {split: listed(folder, class_names, unknown) for split, folder in found.items()}
            all_files = {split: files for split, (files, _) in read.items()}
            all_labels = {split: labels for split, (_, labels) in read.items()}
        super().__init__(
            root,
            all_files,
            all_labels,
            class_names,
            height_and_width(image_size),
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
        )


def _class_names(parent: Path) -> list[str]:
    names = [folder.name for folder in folders_in(parent)]
    if len(names) < 2:
        raise UserError(
            f"{parent}: needs a folder of images for each of two classes or more, has {names or 'none'}; "
            "data.params.classes=none reads images without labels"
        )
    return names

"""A folder of images, labelled by a folder for each class or by a table."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from fastshap_lab.data.base import SPLITS, Split, height_and_width
from fastshap_lab.data.columns import Labels, read_columns
from fastshap_lab.data.decoded import MAX_RESIDENT, split_off
from fastshap_lab.data.image_files import ImageFiles, folders_in, listed, read_file
from fastshap_lab.data.splits import NO_LABEL
from fastshap_lab.errors import UserError
from fastshap_lab.images import EXTENSIONS, Resize, images_in
from fastshap_lab.models.tasks import Multiclass, Task, described

TABLE = "labels.csv"


class Folder(ImageFiles):
    """Images of any size in folders that have the names of their classes, or with their labels in ``labels.csv``.

    The layout is either ``train/<class>/…`` and ``test/<class>/…``, or ``<class>/…`` alone. In the first, validation
    images come from ``val/<class>/…`` if it exists, else from the training images; without ``test``, ``val`` becomes
    the test set. In the second, test and validation images are split off, with the classes in proportion. Folders
    within the folder of a class belong to that class.

    If the folder contains ``labels.csv``, this table has a line for each image, with the image's path within the folder
    in the column ``file``. The column ``split``, if there is one, is ``train``, ``val`` or ``test``; without it, test
    and validation images are split off. All other columns are labels: words are classes, 0 and 1 tell whether a label
    applies, other numbers are targets of a regression. Images that are not in the table are left out.

    Files without the extension of an image are ignored, and so are names that begin with a dot. Images are converted to
    RGB by ``images.to_rgb``. Images of another size are stretched, as an explainer stretches files. ``resize=crop``
    takes the largest part in the centre with the proportions of ``image_size``; ``resize=pad`` keeps the whole image
    and its proportions and fills the rest with black.

    Args:
        path: Path of the folder.
        image_size: Height and width in pixels, or one number for a square.
        resize: ``stretch``, ``crop``, ``pad``, or ``imagenet`` (see ``images.resized``).
        val_fraction: Fraction of the training images that become validation images if there is no ``val``.
        test_fraction: Fraction of the images that become test images if there is neither ``train`` nor ``test``.
        limit_train: Maximum number of training images; validation images are reduced in proportion. None: all.
        limit_test: Maximum number of test images. None: all.
        max_resident: Bytes of pixels; a split that has more is decoded batch by batch in every pass.
        workers: Number of decoding threads. None: one for each available core.
        classes: ``folders`` takes the labels from folders or ``labels.csv``. ``none`` reads all images in the folder
            and in folders within it without labels, for a classifier that is used as it is and has classes already.
        task: Task that the labels are read for. None: the columns of ``labels.csv`` decide; folders are classes.

    Raises:
        UserError: The folder, a class or an image is missing or cannot be read, or the labels do not fit the task.
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
        task: Task | None = None,
    ) -> None:
        root = Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"data.params.path={path}: no such folder")
        with_labels = _in_table if (root / TABLE).is_file() else _in_folders
        find = _without_labels if classes == "none" else with_labels
        files, labels = find(root, path, task, test_fraction)
        super().__init__(
            root,
            files,
            {split: labels.values[rows] for split, rows in _rows(files).items()},
            labels.class_names,
            height_and_width(image_size),
            val_fraction=val_fraction,
            limit_train=limit_train,
            limit_test=limit_test,
            resize=resize,
            max_resident=max_resident,
            workers=workers,
            task=labels.task,
        )


Files = dict[Split, list[Path]]


def _rows(files: Files) -> dict[Split, slice]:
    """Return the rows of labels that belong to each split, as the labels of all splits follow each other."""
    ends = np.cumsum([len(paths) for paths in files.values()]).tolist()
    return {split: slice(end - len(files[split]), end) for split, end in zip(files, ends, strict=True)}


def _without_labels(root: Path, path: str, task: Task | None, test_fraction: float) -> tuple[Files, Labels]:
    """Return all images in a folder and in folders within it, without labels."""
    if task is not None and described(task):
        raise UserError(f"data.params.classes=none: images without labels have no task; remove data.task={task.name}")
    found = sorted(images_in(root))
    if not found:
        raise UserError(f"data.params.path={path}: no image in it ({' '.join(sorted(EXTENSIONS))})")
    train, test = split_off(np.full(len(found), NO_LABEL), "test_fraction", test_fraction)
    files: Files = {"train": [found[index] for index in train], "test": [found[index] for index in test]}
    return files, Labels(Multiclass(), [], np.full(len(found), NO_LABEL))


def _in_folders(root: Path, path: str, task: Task | None, test_fraction: float) -> tuple[Files, Labels]:
    """Return the images in the folders of the classes, and the labels of all splits one after the other."""
    if not any(folders_in(root / "train")):
        class_names = _class_names(root)
        files, numbers = listed(root, class_names, "")
        train, test = split_off(np.array(numbers), "test_fraction", test_fraction)
        parts: dict[Split, list[int]] = {"train": train.tolist(), "test": test.tolist()}
        all_files: Files = {split: [files[index] for index in indices] for split, indices in parts.items()}
        all_numbers = [numbers[index] for indices in parts.values() for index in indices]
    else:
        class_names = _class_names(root / "train")
        found: dict[Split, Path] = {split: root / split for split in SPLITS if (root / split).is_dir()}
        if "test" not in found:
            if "val" not in found:
                raise UserError(
                    f"data.params.path={path}: contains train, but neither test nor val; data.params.path="
                    f"{root / 'train'} splits off test images"
                )
            found["test"] = found.pop("val")
        unknown = f"a class without training images; there are {', '.join(class_names)}"
        read = {split: listed(folder, class_names, unknown) for split, folder in found.items()}
        all_files = {split: files for split, (files, _) in read.items()}
        all_numbers = [number for _, numbers in read.values() for number in numbers]
    # Without a task folders are classes, even if their names are numbers. Other tasks read the names as values.
    if task is None or not described(task):
        return all_files, Labels(Multiclass(), class_names, np.array(all_numbers))
    names = [class_names[number] for number in all_numbers]
    return all_files, read_columns({"folder": names}, task, lambda row: f"{path}, {names[row]}")


def _in_table(root: Path, path: str, task: Task | None, test_fraction: float) -> tuple[Files, Labels]:
    """Return the images in ``labels.csv``, and the labels of all splits one after the other."""
    table = root / TABLE
    columns, lines = _read_table(table)
    names, splits = columns.pop("file"), columns.pop("split", None)
    if not columns:
        raise UserError(f"{table}: needs a column of labels beside file and split")
    for name, line in zip(names, lines, strict=True):
        if not name or not (root / name).resolve().is_relative_to(root.resolve()) or not (root / name).is_file():
            raise UserError(f"{table}, line {line}: no such image in this folder: {name or 'empty'}")
    labels = read_columns(columns, task, lambda row: f"{table}, line {lines[row]}")
    labels.task.check_classes(labels.class_names, str(table))
    if splits is None:
        train, test = split_off(labels.values, "test_fraction", test_fraction, labels.task)
        parts: dict[Split, np.ndarray] = {"train": train, "test": test}
    else:
        for split, line in zip(splits, lines, strict=True):
            if split not in SPLITS:
                raise UserError(f"{table}, line {line}: split is {split or 'empty'}, must be {', '.join(SPLITS)}")
        parts = {split: np.flatnonzero(np.array(splits) == split) for split in SPLITS if split in splits}
        if not {"train", "test"} <= parts.keys():
            raise UserError(f"{table}: its column split names {', '.join(parts)}; train and test are needed")
    files: Files = {split: [root / names[row] for row in rows.tolist()] for split, rows in parts.items()}
    values = labels.values[np.concatenate(list(parts.values()))]
    return files, Labels(labels.task, labels.class_names, values)


def _read_table(table: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Return the columns by name, and the line number of each row."""
    try:
        reader = csv.reader(io.StringIO(read_file(table).decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: must be a table of comma-separated values in UTF-8: {error}") from None
    header = [name.strip() for name in rows[0][1]] if rows else []
    if "file" not in header or "" in header or len(set(header)) != len(header):
        raise UserError(
            f"{table}: its first line must name the columns, each once, among them file; it is "
            f"{', '.join(header) or 'empty'}"
        )
    if len(rows) == 1:
        raise UserError(f"{table}: lists no images; add a line for each image")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"{table}, line {line}: has {len(row)} values for {len(header)} columns")
    columns = {name: [row[place].strip() for _, row in rows[1:]] for place, name in enumerate(header)}
    lines = [line for line, _ in rows[1:]]
    for name, count in Counter(columns["file"]).items():
        if count > 1:
            raise UserError(f"{table}: {name} is in {count} lines, must be in one")
    return columns, lines


def _class_names(parent: Path) -> list[str]:
    names = [folder.name for folder in folders_in(parent)]
    if len(names) < 2:
        raise UserError(
            f"{parent}: needs a folder of images for each of two classes or more, has {names or 'none'}; "
            "data.params.classes=none reads images without labels"
        )
    return names
